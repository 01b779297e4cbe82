"""Short words for what the suites of datasets do to them, each in a transaction of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from headrace.dataset import PLANS, SHARDS, Dataset, DatasetId, DatasetState, Spec
from headrace.db import closing, datasets, planning, publishing, shards, work
from headrace.db.closing import START
from headrace.db.dataset_tables import datasets as datasets_table
from headrace.db.dataset_tables import shards as shards_table
from headrace.db.datasets import NewDataset
from headrace.db.planning import NewShard, PlanRow
from headrace.db.publishing import Finished
from headrace.db.shards import Fence
from headrace.db.tables import now
from headrace.job import JobId, Priority, WorkerId
from tests.conformance.job_table import M1, JobTable, new_id

SPEC = Spec("/in", "/out")


def new_dataset(output: str = "/out", **what: Any) -> NewDataset:
    spec = replace(SPEC, output=output)
    row = NewDataset(
        DatasetId(new_id()), "", "default", M1, Priority.BULK, spec, None, None, JobId(new_id())
    )
    return replace(row, **what)


class DatasetTable:
    """A job table, a producer of datasets and workers that plan and run them."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self.database = table.database

    def call(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        with self.database.write() as connection:
            return function(connection, *arguments, **more)

    def insert(self, output: str = "/out", **what: Any) -> DatasetId:
        return self.call(datasets.insert, new_dataset(output, **what))

    def get(self, id: DatasetId) -> Dataset:
        found = self.call(datasets.get, id)
        assert found is not None
        return found

    def counts(self, id: DatasetId) -> tuple[str, int, int, int]:
        """State, records in all, succeeded, failed."""
        it = self.get(id)
        return str(it.state), it.total, it.succeeded, it.failed

    def claim(self, line: str, worker: WorkerId | None = None, pool: str = "default") -> Fence:
        worker = worker or self.table.worker(pool)
        (unit,) = self.call(work.claim, worker, pool, line=line, at_most=1)
        return Fence(worker, unit.id, unit.attempt)

    def next_shard(self, pool: str) -> Fence | None:
        """Claimed, if there is one."""
        worker = self.table.worker(pool)
        units = self.call(work.claim, worker, pool, line=SHARDS, at_most=1)
        return Fence(worker, units[0].id, units[0].attempt) if units else None

    def plan(self, id: DatasetId, *rows: int) -> PlanRow:
        """Plan a file with shards of so many rows, to the end."""
        fence = self.claim(PLANS)
        plan = self.call(planning.plan_of, fence.job)
        assert plan.dataset == id
        self.call(planning.add_files, fence, [(0, "/in/a.parquet", 10, "tag")])
        self.call(planning.set_reading, fence, "{}")
        self.call(planning.add, fence, plan, cut(*rows), [0])
        self.call(planning.planned, fence)
        return plan

    def planned(self, *rows: int, output: str = "/out") -> DatasetId:
        id = self.insert(output)
        self.plan(id, *rows)
        return id

    def shard(self, worker: WorkerId | None = None, pool: str = "default") -> Fence:
        """Claim a shard, and begin with it."""
        fence = self.claim(SHARDS, worker, pool)
        assert self.call(shards.note, fence, 0)
        return fence

    def finish(self, fence: Fence, succeeded: int, failed: int = 0, **what: Any) -> str:
        """Returns what was sealed."""
        file = {"uri": f"/out/part-{fence.job}", "size": 1, "token": fence.worker, "parts": []}
        sealed = what.pop("sealed", json.dumps([file]))
        numbers = {"duplicates": 0, "seconds": 1.0} | what
        self.call(shards.finish, fence, sealed, succeeded, failed, **numbers)
        return sealed

    def run(self, succeeded: int, failed: int = 0) -> Fence:
        """A worker runs the next shard, and publishes it."""
        fence = self.shard()
        self.finish(fence, succeeded, failed)
        self.publish()
        return fence

    def unpublished(self, id: DatasetId | None = None, older_than: float = 0) -> list[Finished]:
        return self.call(publishing.unpublished, id, older_than, 100)

    def publish(self) -> list[bool]:
        return [self.call(publishing.published, each.key) for each in self.unpublished()]

    def stop(self, id: DatasetId, limit: int = 100) -> int:
        """Returns how many steps it took."""
        steps, at = 0, START
        while at is not None:
            at, steps = self.call(closing.stop, id, at, limit), steps + 1
        return steps

    def close(self, id: DatasetId) -> Dataset | None:
        settled = self.call(closing.settle, id)
        if settled is not None:
            assert self.call(closing.close, id, settled.run)
        return settled

    def ended(self, id: DatasetId, state: DatasetState = DatasetState.CANCELLED) -> None:
        """End it at once, whatever runs, and close it."""
        self.call(datasets.end, state, datasets_table.c.id == id)
        self.stop(id)
        assert self.close(id) is not None

    def again(self, id: DatasetId) -> NewDataset:
        return new_dataset(id=id)

    def renew(
        self,
        id: DatasetId,
        limit: int = 100,
        worker: WorkerId | None = None,
        pool: str = "default",
    ) -> int:
        """Plan what is to run again; returns how many shards."""
        fence = self.claim(PLANS, worker, pool)
        plan = self.call(planning.plan_of, fence.job)
        assert plan.dataset == id
        count, at = 0, START
        while at is not None:
            made, at = self.call(planning.renew, fence, plan, at, limit)
            count += len(made)
        self.call(planning.planned, fence)
        return count

    # Time passes.

    def deadline_in(self, id: DatasetId, seconds: float) -> None:
        self._set(datasets_table, datasets_table.c.id == id, deadline=now() + seconds)

    def finished_in(self, job: JobId, seconds: float) -> None:
        self._set(shards_table, shards_table.c.job_id == job, finished_at=now() + seconds)

    def _set(self, table: sa.Table, where: sa.ColumnElement[bool], **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(where).values(**values))


def cut(*rows: int, file: int = 0) -> list[NewShard]:
    return [NewShard(file, n, sum(rows[:n]), count) for n, count in enumerate(rows)]
