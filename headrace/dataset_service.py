"""What a producer can ask of datasets: the part of `headrace.service` that is about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import uuid_utils
from sqlalchemy import Connection

from headrace.broker import Bell
from headrace.dataset import Dataset, DatasetId, DatasetState
from headrace.db import datasets
from headrace.db.datasets import NewDataset
from headrace.db.engine import Database, retrying
from headrace.errors import (
    DatasetExists,
    DatasetNotEnded,
    DatasetNotFound,
    NotInstalled,
    StorageError,
    Unavailable,
)
from headrace.job import JobId
from headrace.registry.versions import Catalog
from headrace.settings import Settings
from headrace.storage import ObjectStore
from headrace.submission import deadline_of
from headrace.transport import DatasetSubmission


class DatasetService:
    """Implements `headrace.transport.DatasetTransport`."""

    def __init__(
        self, database: Database, store: ObjectStore, bell: Bell, settings: Settings
    ) -> None:
        self.database = database
        self.store = store
        self.settings = settings
        self._bell = bell
        self._catalog = Catalog(database)

    def submit_dataset(self, submission: DatasetSubmission) -> DatasetId:
        """Queue a dataset, or have the one go on that was submitted like this before."""
        from headrace.datasets import request

        new = self.checked(submission)
        output = new.spec.output
        held = self.database.ask(lambda connection: datasets.by_output(connection, output))
        if held is not None:
            return self._submitted_before(held, new)
        request.check_output(output, self.settings)
        try:
            retrying(lambda: self._insert_dataset(new))
        except DatasetExists as exists:
            return self._submitted_before(self.dataset(DatasetId(exists.dataset_id)), new)
        self.ring(new)
        return new.id

    def checked(self, submission: DatasetSubmission) -> NewDataset:
        """What to insert for it. Raises InvalidInput, ModelNotFound."""
        from headrace.datasets import request

        version = self._catalog.find(submission.model)
        spec = request.checked(submission.spec, version.manifest.signature, self.store.url)
        deadline, deadline_in = deadline_of(submission.deadline)
        return NewDataset(
            id=DatasetId(str(uuid_utils.uuid7())),
            tenant=submission.tenant,
            pool=version.manifest.pool,
            model=version.key,
            priority=submission.priority,
            spec=spec,
            deadline=deadline,
            deadline_in=deadline_in,
            plan_job=_new_job(),
        )

    def dataset(self, id: DatasetId) -> Dataset:
        """The dataset, with its counts."""
        found = self.database.ask(lambda connection: datasets.get(connection, id))
        if found is None:
            raise DatasetNotFound(id)
        return found

    def datasets(
        self, tenant: str, states: Sequence[DatasetState], after: DatasetId | None, limit: int
    ) -> list[Dataset]:
        """A tenant's datasets, newest first."""
        return self.database.ask(
            lambda connection: datasets.page(connection, tenant, states, after, limit)
        )

    def cancel_dataset(self, id: DatasetId) -> bool:
        """End a dataset, and close it; what fails of that the sweeper will do."""
        self.dataset(id)
        with self.database.write() as connection:
            cancelled = datasets.cancel(connection, id)
        if cancelled:
            with suppress(NotInstalled, Unavailable, StorageError):
                self._close(id)
        return cancelled

    def rerun_failed(self, id: DatasetId) -> bool:
        """Run the failed records of a dataset again that ran to its end, and ring for it."""
        from headrace.datasets import closing

        dataset = self.dataset(id)
        if not dataset.state.ended or cut_short(dataset):
            raise DatasetNotEnded(id, dataset.state)
        if not dataset.failed:
            return False
        closing.reopen(dataset, self.settings)
        return self._begin(again_of(dataset), datasets.run_failed)

    def _submitted_before(self, held: Dataset, new: NewDataset) -> DatasetId:
        """Have it go on, where it was cut short."""
        if (held.tenant, held.model, held.spec) != (new.tenant, new.model, new.spec):
            raise DatasetExists(new.spec.output, held.id)
        if cut_short(held):
            self._close(held.id)
            self._begin(replace(new, id=held.id), datasets.go_on)
        return held.id

    def _begin(self, again: NewDataset, step: Callable[[Connection, NewDataset], bool]) -> bool:
        with self.database.write() as connection:
            begun = step(connection, again)
        if begun:
            self.ring(again)
        return begun

    def _insert_dataset(self, new: NewDataset) -> None:
        with self.database.write() as connection:
            datasets.insert(connection, new)

    def _close(self, id: DatasetId) -> None:
        from headrace.datasets import closing

        closing.close(self.database, self.settings, id)

    def ring(self, new: NewDataset) -> None:
        """For its plan; a broker that does not answer is left alone."""
        self._bell.ring(new.model, new.pool, new.priority, [new.plan_job], 1)


def cut_short(dataset: Dataset) -> bool:
    """Whether it ended, but not because all of its records were done."""
    return dataset.state.ended and (
        dataset.error is not None or dataset.state is DatasetState.CANCELLED
    )


def again_of(dataset: Dataset) -> NewDataset:
    """To have it go on, or what failed of it run again."""
    return NewDataset(
        dataset.id,
        dataset.tenant,
        dataset.pool,
        dataset.model,
        dataset.priority,
        dataset.spec,
        deadline=None,
        deadline_in=None,
        plan_job=_new_job(),
    )


def _new_job() -> JobId:
    return JobId(str(uuid_utils.uuid7()))
