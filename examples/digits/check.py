"""Whether every job has its one right result. Pure, so that the tests can plant faults in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.job import JobId
from headrace.registry.manifest import Tolerance

Record = Mapping[str, Any]


def find_faults(
    ids: Sequence[JobId],
    expected: Sequence[Record],
    results: Mapping[JobId, Record],
    stored: Iterable[tuple[JobId, Record]],
    tolerance: Tolerance,
) -> list[str]:
    """What is wrong, a line for each fault, naming the job; empty where all is well.

    ids: the submitted jobs. expected: what each should answer, in that order. results: what
    the client was given. stored: what the object store holds, read without the job table;
    entries of other jobs are ignored. Outputs are arrays by name.
    """
    copies: Counter[JobId] = Counter()
    wanted = dict(zip(ids, expected, strict=True))
    faults = [f"job {id}: submitted for {n} images" for id, n in Counter(ids).items() if n > 1]
    for id, outputs in stored:
        if id not in wanted:
            continue
        copies[id] += 1
        if problem := _difference(outputs, wanted[id], tolerance):
            faults.append(f"job {id}: in the store, {problem}")
    for id, want in wanted.items():
        if id not in results:
            faults.append(f"job {id}: the client has no result")
        elif problem := _difference(results[id], want, tolerance):
            faults.append(f"job {id}: {problem}")
        if copies[id] != 1:
            faults.append(f"job {id}: its result is in the store {copies[id]} times, not once")
    return faults


def _difference(got: Record, want: Record, tolerance: Tolerance) -> str | None:
    """How `got` differs from the direct run, in words, or None."""
    if got.keys() != want.keys():
        return f"outputs {sorted(got)} instead of {sorted(want)}"
    for name, value in want.items():
        if got[name].shape != value.shape or got[name].dtype != value.dtype:
            return (
                f"{name} is {got[name].dtype}{list(got[name].shape)} instead of "
                f"{value.dtype}{list(value.shape)}"
            )
        if not np.allclose(
            got[name], value, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True
        ):
            return f"{name} differs from the direct run by up to {np.abs(got[name] - value).max()}"
    return None
