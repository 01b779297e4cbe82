"""The verdict on datasets, from the files that they left: each row once, as a result or an error.

It is counted over the manifest, and over what lies in the folder: a reader may go by either.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from headrace.dataset import Dataset, DatasetId, DatasetState, outcome
from headrace.datasets.closing import ERRORS, MANIFEST, SUCCESS
from headrace.db import datasets as dataset_table
from tests.chaos.datasets import Datasets, Submitted
from tests.chaos.files import Row
from tests.chaos.judge import FAILS_WITH, Verdict
from tests.chaos.places import Place
from tests.chaos.records import GOOD
from tests.chaos.rig import Rig

_PART = "part-"
_Found = tuple[tuple[str, int], str, Any]
"""A row's file and number, the file that tells of it, and what that says."""


def judge_datasets(rig: Rig, load: Datasets, verdict: Verdict) -> None:
    for id, submitted in load.submitted.items():
        _Judge(rig, id, submitted, verdict).judge()


class _Judge:
    """Of one dataset."""

    def __init__(self, rig: Rig, id: DatasetId, submitted: Submitted, verdict: Verdict) -> None:
        self._rig = rig
        self._id = id
        self._rows = submitted.rows
        self._output = submitted.output
        self._cancelled = submitted.cancelled
        self._verdict = verdict

    def judge(self) -> None:
        names = [name for name in self._output.names() if not name.startswith(".")]
        if MANIFEST not in names:
            self._complain("lost", "datasets without a manifest", [names])
            return
        with self._rig.database.read() as connection:
            kept = dataset_table.get(connection, self._id)
        assert kept is not None
        if kept.error is not None:
            self._complain("lost", "datasets that failed as a whole", [kept.error])
            return
        manifest = json.loads(self._output.read(MANIFEST))
        results = list(_results(self._output, [n for n in names if n.startswith(_PART)]))
        errors = list(_errors(self._output, [n for n in names if n.startswith(ERRORS)]))
        self._judge_rows([*results, *errors])
        self._judge_answers(results, errors)
        self._judge_end(kept, manifest, len(results), len(errors), names)

    def _judge_rows(self, found: list[_Found]) -> None:
        seen = Counter(row for row, _, _ in found)
        missing = set() if self._cancelled else self._rows.keys() - seen.keys()
        self._complain("lost", "rows without result or error", missing)
        self._complain("duplicated", "rows twice", [row for row, n in seen.items() if n > 1])
        self._complain("wrong", "rows that nobody submitted", seen.keys() - self._rows.keys())
        places: dict[str, list[int]] = {}
        for (_, number), name, _ in found:
            places.setdefault(name, []).append(number)
        disordered = [name for name, numbers in places.items() if numbers != sorted(numbers)]
        self._complain("wrong", "files out of order", disordered)

    def _judge_answers(self, results: list[_Found], errors: list[_Found]) -> None:
        wrong = [f for f in results if not _is_right(self._rows.get(f[0]), f[2])]
        wrong += [f for f in errors if not _fails_well(self._rows.get(f[0]), f[2])]
        self._complain("wrong", "rows with a wrong answer", wrong)

    def _judge_end(
        self,
        kept: Dataset,
        manifest: Mapping[str, Any],
        succeeded: int,
        failed: int,
        names: list[str],
    ) -> None:
        """What the table and the manifest say, against what lies there."""
        state = DatasetState.CANCELLED if self._cancelled else outcome(succeeded, failed)
        counts = [succeeded, failed] if self._cancelled else [succeeded, failed, len(self._rows)]
        names_of_counts = ("succeeded", "failed", "total")[: len(counts)]
        said = [manifest[name] for name in ("state", *names_of_counts)]
        told = [getattr(kept, name) for name in ("state", *names_of_counts)]
        for where, those in (("manifest", said), ("table", told)):
            if those != [state, *counts]:
                self._complain("wrong", f"counts in the {where}", [those, [state, *counts]])
        listed = [entry["uri"].rpartition("/")[2] for entry in manifest["parts"]]
        listed += [entry["uri"].rpartition("/")[2] for entry in manifest["errors"]]
        marker = [SUCCESS] if state in (DatasetState.SUCCEEDED, DatasetState.PARTIAL) else []
        if sorted(names) != sorted([*listed, MANIFEST, *marker]):
            self._complain("wrong", "files that lie there and are not listed, or not so", [names])

    def _complain(self, kind: str, what: str, cases: Any) -> None:
        self._verdict.complain(kind, f"{what}, of dataset {self._id}", cases)


def _results(output: Place, names: list[str]) -> Iterator[_Found]:
    for name in names:
        for row in pq.read_table(io.BytesIO(output.read(name))).to_pylist():
            yield (row["file"], row["row"]), name, row


def _errors(output: Place, names: list[str]) -> Iterator[_Found]:
    for name in names:
        for line in output.read(name).splitlines():
            error = json.loads(line)
            yield (error["file"], error["row"]), name, error


def _is_right(row: Row, answer: Mapping[str, Any]) -> bool:
    if row is None or row.op != GOOD:
        return False
    return int(answer["n"]) == row.n and all(answer[k] == v for k, v in row.right.items())


def _fails_well(row: Row, error: Mapping[str, Any]) -> bool:
    if row is None:
        return bool(error["code"] == "invalid_input")
    if row.op == GOOD:
        return False
    code, words = FAILS_WITH[row.op]
    if code == "quarantined":  # how its workers died, their shard does not know
        words = "workers died with this record alone"
    return bool(error["code"] == code and re.search(words.format(n=row.n), error["message"]))
