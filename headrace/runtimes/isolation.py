"""Runs a batch so that each record gets an outcome of its own, whatever the model does. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.errors import BadOutput, HeadraceError
from headrace.job import Failed, Outcome, Retry
from headrace.signature import Record, padded_tokens

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED")


class DevicePoisoned(Exception):  # a condition of the device, not of a caller
    """The device answers nothing any more until the process is gone: a CUDA assert, say."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """What a batch that did not fit into memory tells of the next ones, in padded tokens.

    too_many: did not fit. fits: did, or is a guess where nothing did.
    """

    too_many: int
    fits: int


class Isolation:
    """One batch on its way through a model.

    infer: the model. lengths: tokens of each record. passes: whether an error is one that may be
    gone when the record runs again. fitted: padded tokens of the largest run that did not raise.

    A batch that raises is halved until the bad record stands alone: at most O(bad × log batch)
    extra runs, and its batch-mates succeed. Halving also is the answer to a batch that does not
    fit into memory; then no part as large is tried any more. Where an error that passes hit all
    records of one half, the other is left for later: it would be hit too.
    """

    def __init__(
        self,
        infer: Callable[[Sequence[Record]], Sequence[Outcome]],
        records: Sequence[Record],
        lengths: Sequence[int],
        passes: Callable[[Exception], bool],
    ) -> None:
        self._infer = infer
        self._records = records
        self._lengths = lengths
        self._passes = passes
        self.fitted = 0
        self._overflowed: list[range] = []
        self._unfit: set[int] = set()

    def run(self) -> list[Outcome | None]:
        """One outcome per record; None for one that was left for later. Raises DevicePoisoned."""
        return self._run(range(len(self._records)))

    @property
    def overflow(self) -> Overflow | None:
        """None where all of it has fitted, or only records that do not fit alone have not."""
        too_many = self._too_many()
        if too_many == math.inf:
            return None
        fits = self.fitted if 0 < self.fitted < too_many else too_many // 2
        return Overflow(int(too_many), max(1, int(fits)))

    def _run(self, rows: range) -> list[Outcome | None]:
        failure: Outcome | None = None
        if len(rows) == 1 or self._tokens(rows) < self._too_many():
            try:
                outcomes = self._infer([self._records[row] for row in rows])
                if len(outcomes) != len(rows):
                    raise BadOutput(
                        f"the model returned {len(outcomes)} outputs for {len(rows)} records"
                    )
            except Exception as error:  # noqa: BLE001  # a model may raise anything
                failure = self._judge(error, rows)
            else:
                self.fitted = max(self.fitted, self._tokens(rows))
                return list(outcomes)
        # Out of the handler, so that the error holds on to no tensor of the batch that failed.
        if len(rows) == 1:
            return [failure]
        half = len(rows) // 2
        first = self._run(rows[:half])
        everybody = half > 1 and all(o is None or isinstance(o, Retry) for o in first)
        if everybody and isinstance(failure, Retry):
            return first + [None] * (len(rows) - half)
        return first + self._run(rows[half:])

    def _judge(self, error: Exception, rows: range) -> Outcome:
        """What the error means for the record that caused it."""
        said = f"{type(error).__name__}: {error}"
        memory = _is_out_of_memory(error)
        if memory and len(rows) == 1:
            self._unfit.add(rows[0])
        elif memory:
            self._overflowed.append(rows)
        elif poisons(error):
            raise DevicePoisoned(str(error)) from error
        if self._passes(error):
            return Retry(message=said)
        if isinstance(error, HeadraceError):
            return Failed(error.code, said)
        return Failed("out_of_memory" if memory else "model_error", said)

    def _too_many(self) -> float:
        """The least that did not fit for its size, not for a record that does not fit alone."""
        sizes = (self._tokens(rows) for rows in self._overflowed if self._unfit.isdisjoint(rows))
        return min(sizes, default=math.inf)

    def _tokens(self, rows: range) -> int:
        return padded_tokens(self._lengths[row] for row in rows)


def _is_out_of_memory(error: Exception) -> bool:
    """Torch's own error, its CPU allocator's, that of a CUDA library, Python's or numpy's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
    )


def poisons(error: Exception) -> bool:
    """Whether the CUDA context is beyond use: every later call would fail for its sake."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
