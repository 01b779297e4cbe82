"""Whose turn it is on the device, where single jobs and a shard share it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.job import JobId, Priority
from tests.unit.items import item, version
from workers.flow import Batch, Block
from workers.turns import Turns


def batch(priority: Priority) -> Batch:
    of = version()
    return Batch(of, (item(of, priority=priority),), ())


def block(job: str = "shard", priority: Priority = Priority.BULK) -> Block:
    # As much of one as turns look at.
    return cast(Block, SimpleNamespace(job=JobId(job), priority=priority))


def order(turns: Turns) -> str:
    """b for batches, s for blocks of the shard, in the order they run."""
    turns.stop()
    seen = ""
    while (turn := turns.next()) is not None:
        seen += "b" if isinstance(turn, tuple) else "s"
    return seen


@pytest.mark.parametrize(
    ("jobs", "shard", "expected"),
    [
        (Priority.NORMAL, Priority.BULK, "bbbsss"),
        (Priority.BULK, Priority.BULK, "bsbsbs"),
        (Priority.BULK, Priority.HIGH, "sbsbsb"),
    ],
)
def test_urgent_jobs_go_first_and_others_take_turns(
    jobs: Priority, shard: Priority, expected: str
) -> None:
    turns = Turns()
    turns.admit(JobId("shard"))
    for _ in range(3):
        turns.put(batch(jobs))
    turns.put_blocks([block(priority=shard) for _ in range(3)])
    seen = order(turns)
    # Who begins where nobody is more urgent does not matter.
    assert seen in (expected, expected[::-1])


def test_what_is_revoked_does_not_run() -> None:
    turns = Turns()
    turns.admit(JobId("a"))
    turns.admit(JobId("b"))
    turns.put_blocks([block("a"), block("b"), block("a")])
    turns.revoke(JobId("a"))
    turns.put_blocks([block("a")])  # by a reader that was at it
    turn: Any = turns.next()
    assert turn.job == "b"
    assert order(turns) == ""
