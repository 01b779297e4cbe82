"""Datasets for a rig's worker: their input, and what became of each row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
import uuid_utils

from headrace.dataset import Dataset, DatasetId, Spec
from headrace.db import datasets
from headrace.db.dataset_tables import shards
from headrace.db.datasets import NewDataset
from headrace.db.tables import jobs
from headrace.job import JobId, ModelKey, Priority
from tests.service.rig import Rig, eventually


class Run:
    """A dataset of the rig's pool, submitted: a row for each op, which is what the model does."""

    def __init__(
        self,
        rig: Rig,
        name: str,
        ops: Sequence[str],
        *,
        model: str = "echo",
        priority: Priority = Priority.BULK,
        **spec: Any,
    ) -> None:
        self.rig = rig
        self.output = rig.folder / name
        source = rig.folder / f"{name}.parquet"
        rows = {"op": list(ops), "value": list(range(len(ops)))}
        pq.write_table(pa.table(rows), source, row_group_size=50)
        self.id = DatasetId(str(uuid_utils.uuid7()))
        new = NewDataset(
            self.id,
            "",
            rig.pool,
            ModelKey(model, 1),
            priority,
            Spec(str(source), str(self.output), **spec),
            None,
            None,
            JobId(str(uuid_utils.uuid7())),
        )
        with rig.database.write() as connection:
            datasets.insert(connection, new)

    def now(self) -> Dataset:
        with self.rig.database.read() as connection:
            found = datasets.get(connection, self.id)
        assert found is not None
        return found

    def wait(self) -> Dataset:
        """Until its manifest is written."""
        eventually(
            f"dataset ends: {self.rig.log()[-3000:]}",
            lambda: (self.output / "_manifest.json").exists(),
        )
        eventually("dataset has ended", lambda: self.now().state.ended)
        return self.now()

    def results(self) -> list[dict[str, Any]]:
        """Every result, part after part."""
        return [row for path in self.paths("part-*") for row in pq.read_table(path).to_pylist()]

    def errors(self) -> list[dict[str, Any]]:
        """Every error, file after file."""
        files = self.paths("errors-*")
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    def paths(self, pattern: str) -> list[Path]:
        return sorted(self.output.glob(pattern))

    def units(self) -> list[tuple[str, int]]:
        """State and attempt of the jobs that run its shards."""
        of_it = sa.select(jobs.c.state, jobs.c.attempt).join(shards, shards.c.job_id == jobs.c.id)
        with self.rig.database.read() as connection:
            found = connection.execute(of_it.where(shards.c.dataset_id == self.id))
            return [(row.state, row.attempt) for row in found]
