"""What a schedule asks of whatever runs its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa

from headrace.dataset import Dataset, DatasetId
from headrace.schedules.order import Order


class Prepared(Protocol):
    """A dataset that is checked, and only needs to be written down."""

    def start(self, connection: sa.Connection) -> DatasetId | None:
        """Have it run from the caller's commit on; None where it cannot.

        Raises DatasetExists.
        """
        ...

    def ring(self) -> None:
        """Tell workers of it, after the commit."""
        ...


class Runs(Protocol):
    """Datasets. Thread-safe; every call may raise an Unavailable error."""

    def prepare(self, order: Order) -> Prepared:
        """Check it, outside of any transaction. Raises InvalidInput, ModelNotFound."""
        ...

    def again(self, id: DatasetId) -> Prepared:
        """Likewise, to have what failed of a dataset run again, or it go on. Raises as `look`."""
        ...

    def look(self, ids: Sequence[DatasetId]) -> Mapping[DatasetId, Dataset]:
        """Those that there are."""
        ...

    def cancel(self, id: DatasetId) -> None:
        """Have it end, if it has not."""
        ...

    def errors(self, id: DatasetId) -> Mapping[str, int]:
        """How many of its records failed, by the code of their error."""
        ...
