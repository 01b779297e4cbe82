"""What is submitted, and what must come of it: pure functions of a seed and a number."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.job import Priority

TENANTS = ("", "north", "south")
GOOD = "good"
LARGEST = 700
"""Characters of text: some inputs and results exceed what the rig keeps in the table."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record. op: what it does to the model, see handler.py."""

    n: int
    op: str
    text: str

    @property
    def inputs(self) -> Mapping[str, object]:
        return {"n": self.n, "op": self.op, "text": self.text}

    @property
    def right(self) -> Mapping[str, object]:
        """The outputs, where the record is good."""
        return {"sum": zlib.crc32(f"{self.n} {self.text}".encode()), "text": self.text[::-1]}


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of a producer.

    key: its idempotency key. twice: the producer makes the call again under it, as one that
    crashed does. cancel: it thinks better of it.
    """

    records: tuple[Record, ...]
    tenant: str
    priority: Priority
    key: str | None
    twice: bool
    cancel: bool


def submissions(
    seed: int, producer: int, sizes: tuple[int, int], poison: Mapping[str, int]
) -> Iterator[Submission]:
    """All that a producer would ever submit.

    sizes: the fewest and the most records per call. poison: for each op, one record in how many.
    """
    rng = random.Random(f"{seed} {producer}")
    n = producer * 1_000_000
    while True:
        count = rng.randint(*sizes)
        records = tuple(record(rng, n + i, poison) for i in range(count))
        keyed = rng.random() < 0.7
        yield Submission(
            records,
            tenant=rng.choice(TENANTS),
            priority=rng.choices(list(Priority), weights=(1, 4, 2))[0],
            key=f"{seed}-{n}" if keyed else None,
            twice=keyed and rng.random() < 0.05,
            cancel=rng.random() < 0.02,
        )
        n += count


def record(rng: random.Random, n: int, poison: Mapping[str, int]) -> Record:
    """The next one, a good one or for each op one in how many."""
    op = next((op for op, one_in in poison.items() if rng.randrange(one_in) == 0), GOOD)
    length = rng.choice((8, 8, 8, 8, 8, 8, 80, LARGEST))
    return Record(n, op, "".join(rng.choices("abcdefgh", k=8)) * (length // 8))
