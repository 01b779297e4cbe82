"""What a schedule asks of whatever runs its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from headrace.dataset import Dataset, DatasetId
from headrace.job import Priority


@dataclass(frozen=True, slots=True)
class Order:
    """A dataset to run. options: what else `Client.submit_dataset` takes, by its names."""

    tenant: str
    model: str
    input: str
    output: str
    priority: Priority
    deadline: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Prepared(Protocol):
    """A dataset that is checked, and only needs to be written down."""

    def start(self, connection: sa.Connection) -> DatasetId:
        """Insert it in the caller's transaction. Raises DatasetExists."""
        ...

    def again(self, connection: sa.Connection, id: DatasetId) -> bool:
        """Have what failed of dataset `id` run again instead; False where it cannot."""
        ...


class Runs(Protocol):
    """Datasets. Thread-safe; every call may raise an Unavailable error."""

    def prepare(self, order: Order) -> Prepared:
        """Check it, outside of any transaction. Raises InvalidInput, ModelNotFound."""
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
