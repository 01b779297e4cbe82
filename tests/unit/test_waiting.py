"""How much a worker claims ahead: enough to keep the device busy, too little to hoard."""

import threading
from types import SimpleNamespace

import pytest

from tests.unit.items import item, version
from workers.waiting import Waiting

FAST, SLOW = version("fast", records=4), version("slow", records=4)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.waiting.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def waiting(clock: Clock) -> Waiting:
    """Knows what a batch takes: 0.01 s on fast, 2 s on slow."""
    waiting = Waiting()
    for of, seconds in ((FAST, 0.01), (SLOW, 2.0)):
        waiting.put([item(of)])
        assert waiting.take() is not None
        waiting.ended(seconds)
    return waiting


def room(waiting: Waiting) -> bool:
    return waiting.wait_for_room(timeout=0)


def test_an_idle_worker_has_room(waiting: Waiting) -> None:
    assert room(waiting)
    assert room(Waiting())


def test_there_is_none_while_a_claim_waits_for_an_idle_device(waiting: Waiting) -> None:
    waiting.put([item(FAST)])
    assert not room(waiting)


def test_while_a_long_batch_runs_there_is_none_until_shortly_before_its_end(
    waiting: Waiting, clock: Clock
) -> None:
    waiting.put([item(SLOW)])
    waiting.take()
    waiting.started()
    assert not room(waiting)
    clock.now += 1.85
    assert not room(waiting)
    clock.now += 0.1
    assert room(waiting)


def test_while_short_batches_run_there_is_room_until_the_next_is_full(waiting: Waiting) -> None:
    waiting.put([item(FAST)])
    waiting.take()
    waiting.started()
    assert room(waiting)
    waiting.put([item(FAST) for _ in range(3)])
    assert room(waiting)
    waiting.put([item(FAST)])
    assert not room(waiting)


def test_a_model_that_never_ran_is_given_time(clock: Clock) -> None:
    waiting = Waiting()
    waiting.put([item(SLOW)])
    waiting.take()
    waiting.started()
    assert not room(waiting)
    clock.now += 100
    assert not room(waiting)
    waiting.ended(3.0)
    assert room(waiting)


def test_what_a_batch_takes_is_learnt_bit_by_bit(waiting: Waiting, clock: Clock) -> None:
    for _ in range(10):
        waiting.put([item(SLOW)])
        waiting.take()
        waiting.ended(0.02)
    waiting.put([item(SLOW)])
    waiting.take()
    waiting.started()
    assert room(waiting)


class TestTake:
    def test_an_idle_device_takes_whatever_waits(self, waiting: Waiting) -> None:
        waiting.put([item(FAST)])
        assert len(waiting.take() or []) == 1

    def test_a_busy_one_takes_full_batches_one_ahead(self, waiting: Waiting) -> None:
        waiting.put([item(FAST) for _ in range(12)])
        assert len(waiting.take() or []) == 4
        assert len(waiting.take() or []) == 4
        assert len(waiting._handed) == 2

    def test_nothing_runs_beside_a_suspect_until_it_is_settled(self, waiting: Waiting) -> None:
        suspect = item(FAST, suspect=True)
        waiting.put([suspect])
        assert waiting.take() == [suspect]
        waiting.put([item(FAST) for _ in range(4)])
        taken: list[object] = []
        taking = threading.Thread(target=lambda: taken.append(waiting.take()))
        taking.start()
        waiting.ended(0.01)
        waiting.settled([item(FAST).unit.id])
        taking.join(0.02)
        assert not taken
        waiting.settled([suspect.unit.id])
        taking.join(10)
        assert len(taken) == 1

    def test_closing_returns_what_waited_and_ends_everything(self, waiting: Waiting) -> None:
        items = [item(FAST), item(SLOW)]
        waiting.put(items)
        assert {i.unit.id for i in waiting.close()} == {i.unit.id for i in items}
        assert waiting.take() is None
        assert not room(waiting)


def test_a_batch_that_was_cancelled_does_not_end_the_one_on_the_device(
    waiting: Waiting, clock: Clock
) -> None:
    waiting.put([item(SLOW)])
    waiting.take()
    waiting.started()
    waiting.put([item(FAST) for _ in range(4)])
    waiting.take()
    waiting.dropped()
    clock.now += 1.0
    assert not room(waiting)
    clock.now += 0.95
    assert room(waiting)
    waiting.ended(2.0)
    waiting.put([item(FAST)])
    waiting.take()
    waiting.started()
    assert room(waiting), "the slow model's time was put down to the fast one"


def test_short_batches_are_claimed_together_long_ones_one_by_one(waiting: Waiting) -> None:
    assert waiting.several(9) is None, "nothing runs: who knows what comes"
    waiting.put([item(FAST) for _ in range(4)])
    assert waiting.take()
    assert waiting.several(9) == (FAST.key, 4)
    assert waiting.several(2) == (FAST.key, 2)
    assert waiting.several(0) == (FAST.key, 1)
    waiting.ended(0.1)
    waiting.put([item(FAST) for _ in range(4)])
    assert waiting.take()
    assert waiting.several(9) == (FAST.key, 1), "0.037 s each: a second one would be hoarded"


def test_it_is_idle_when_nothing_waits_and_nothing_runs(waiting: Waiting) -> None:
    assert waiting.idle()
    waiting.put([item(FAST)])
    assert not waiting.idle()
    waiting.take()
    assert not waiting.idle()
    waiting.ended(0.01)
    assert waiting.idle()
