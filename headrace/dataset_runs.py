"""The datasets of schedules: what `headrace.schedules.runs` asks for, by the dataset service."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import sqlalchemy as sa

from headrace.dataset import Dataset, DatasetId, Spec
from headrace.dataset_service import DatasetService, again_of, cut_short
from headrace.db import datasets
from headrace.db.datasets import NewDataset
from headrace.errors import DatasetNotFound, InputChanged, InvalidInput
from headrace.schedules.order import Order
from headrace.transport import DatasetSubmission

_OPTIONS = {field.name for field in fields(Spec)} - {"input", "output"}
_COUNTED = 100_000
"""Failed records that are counted by their code; more are like those."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    new: NewDataset
    step: Callable[[sa.Connection, NewDataset], DatasetId | bool]
    service: DatasetService

    def start(self, connection: sa.Connection) -> DatasetId | None:
        return self.new.id if self.step(connection, self.new) else None

    def ring(self) -> None:
        self.service.ring(self.new)


class DatasetRuns:
    """Implements `headrace.schedules.runs.Runs`."""

    def __init__(self, service: DatasetService) -> None:
        self._service = service

    def check(self, order: Order) -> None:
        """Whether there can be such a dataset, once its input is there.

        Raises InvalidInput, ModelNotFound.
        """
        try:
            self._service.checked(_submission(order))
        except InvalidInput as error:
            if error.field != "input":
                raise

    def prepare(self, order: Order) -> _Prepared:
        """Check it, outside of any transaction. Raises InvalidInput, ModelNotFound."""
        from headrace.datasets import request

        new = self._service.checked(_submission(order))
        request.check_output(new.spec.output, self._service.settings)
        return _Prepared(new, datasets.insert, self._service)

    def again(self, id: DatasetId) -> _Prepared:
        """To have what failed of a dataset run again, or have one go on that was cut short."""
        from headrace.datasets import closing

        dataset = self._service.dataset(id)
        step = datasets.go_on if cut_short(dataset) else datasets.run_failed
        closing.reopen(dataset, self._service.settings)
        return _Prepared(again_of(dataset), step, self._service)

    def look(self, ids: Sequence[DatasetId]) -> Mapping[DatasetId, Dataset]:
        """Those that there are."""
        with self._service.database.read() as connection:
            found = {id: datasets.get(connection, id) for id in ids}
        return {id: dataset for id, dataset in found.items() if dataset is not None}

    def cancel(self, id: DatasetId) -> None:
        """Have it end, if it has not."""
        self._service.cancel_dataset(id)

    def errors(self, id: DatasetId) -> Mapping[str, int]:
        """How many of its records failed, by the code of their error."""
        from headrace.datasets import files
        from headrace.datasets.closing import MANIFEST

        settings, codes = self._service.settings, Counter[str]()
        try:
            where = f"{self._service.dataset(id).spec.output}/{MANIFEST}"
            for manifest in files.find(where, settings):
                with files.open_file(manifest, settings) as stream:
                    listed = json.load(stream)["errors"]
                for entry in listed:
                    (file,) = files.find(entry["uri"], settings)
                    with files.open_file(file, settings) as stream:
                        lines = islice(stream, max(0, _COUNTED - codes.total()))
                        codes.update(json.loads(line)["code"] for line in lines)
        except (InvalidInput, InputChanged, DatasetNotFound):
            pass  # there is none, or somebody tidied up: the counts stay what they are
        return codes


def _submission(order: Order) -> DatasetSubmission:
    return DatasetSubmission(
        order.model,
        _spec(order.input, order.output, order.options),
        order.priority,
        order.deadline,
        order.tenant,
    )


def _spec(input: str, output: str, options: Mapping[str, Any]) -> Spec:
    """Options come from TOML or JSON. Raises InvalidInput."""
    for name in options:
        if name not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise InvalidInput(f"dataset.{name}", f"no such option; there is {known}")
    plain = dict(options)
    for name in ("carry", "fetch"):
        plain[name] = _names(name, plain.get(name, ()))
    plain["inputs"] = {
        field: _names(f"inputs.{field}", of) for field, of in plain.get("inputs", {}).items()
    }
    return Spec(input, output, **plain)


def _names(field: str, names: object) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else names
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise InvalidInput(f"dataset.{field}", f"expected names of columns, got {names!r}")
    return tuple(found)
