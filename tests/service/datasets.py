"""Datasets for a rig's worker: their input, and what became of each row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
import uuid_utils

from headrace.dataset import Dataset, DatasetId, Spec
from headrace.datasets.formats import of_name
from headrace.datasets.writing import open_writer
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
        ops: Sequence[str] | pa.Table,
        *,
        model: str = "echo",
        priority: Priority = Priority.BULK,
        values: Sequence[int] = (),
        end: str = "parquet",
        **spec: Any,
    ) -> None:
        self.rig = rig
        self.output = rig.folder / name
        if not isinstance(ops, pa.Table):
            ops = pa.table({"op": list(ops), "value": list(values or range(len(ops)))})
        source = rig.folder / f"{name}.{end}"
        with source.open("wb") as sink:
            if end == "parquet":
                pq.write_table(ops, sink, row_group_size=50)
            else:
                with open_writer(sink, ops.schema, *of_name(source.name)) as writer:
                    writer.write_table(ops)
        self.id = DatasetId(str(uuid_utils.uuid7()))
        self._new = NewDataset(
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
            datasets.insert(connection, self._new)

    def again(self) -> None:
        """Have the failed records run again."""
        new = replace(self._new, plan_job=JobId(str(uuid_utils.uuid7())))
        with self.rig.database.write() as connection:
            assert datasets.run_failed(connection, new)

    def now(self) -> Dataset:
        with self.rig.database.read() as connection:
            found = datasets.get(connection, self.id)
        assert found is not None
        return found

    def wait(self) -> Dataset:
        """Until it has ended, and its manifest is written."""
        eventually("the dataset ends", lambda: self.now().state.ended)
        eventually("its manifest is there", (self.output / "_manifest.json").exists)
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
