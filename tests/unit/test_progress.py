"""What a worker writes down for its supervisor, and what that one makes of it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from headrace.job import JobId
from workers.progress import Progress


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def worker(clock: Clock) -> Iterator[Progress]:
    progress = Progress.create()
    yield progress
    progress.remove()


@pytest.fixture
def supervisor(worker: Progress) -> Progress:
    """The same board, as another process maps it."""
    return Progress(worker.path)


def test_a_worker_that_ticks_is_not_stuck(worker, supervisor, clock) -> None:
    for _ in range(10):
        clock.now += 9
        assert supervisor.stuck(10) is None
        worker.tick()


def test_one_that_stands_still_is(worker, supervisor, clock) -> None:
    clock.now += 11
    assert supervisor.stuck(10) == "it has stood still for 11 s"


def test_a_long_batch_within_its_limit_is_not_stuck_though_nothing_ticks(
    worker, supervisor, clock
) -> None:
    with worker.device(100):
        clock.now += 99
        assert supervisor.stuck(10) is None


def test_a_batch_over_its_limit_is_though_the_rest_ticks(worker, supervisor, clock) -> None:
    with worker.device(5):
        clock.now += 6
        worker.tick()
        assert supervisor.stuck(10) == "a batch has run for 6 s, over its limit of 5 s"
    assert supervisor.stuck(10) is None


def test_what_a_supervisor_did_not_see_it_does_not_hold_against_the_worker(
    worker, supervisor, clock
) -> None:
    clock.now += 11
    back = clock.now
    assert supervisor.stuck(10, back) is None
    with worker.device(5):
        clock.now += 6
        back = clock.now
        clock.now += 5
        assert supervisor.stuck(10, back) is None
        clock.now += 1
        assert supervisor.stuck(10, back) == "a batch has run for 6 s, over its limit of 5 s"
    clock.now += 5
    assert supervisor.stuck(10, back) == "it has stood still for 11 s"


def test_the_device_is_idle_again_also_after_an_error(worker, supervisor, clock) -> None:
    with pytest.raises(ValueError, match="model"), worker.device(5):
        raise ValueError("model")
    clock.now += 6
    assert supervisor.stuck(10) is None


def test_what_was_on_the_device_is_suspect_if_the_process_dies(worker, supervisor) -> None:
    assert supervisor.suspects() == []
    worker.begin([JobId("a"), JobId("b")])
    assert supervisor.suspects() == ["a", "b"]
    worker.end()
    assert supervisor.suspects() == []
    worker.begin([JobId("c")])
    assert supervisor.suspects() == ["c"]
    with worker.reading(JobId("s")):
        assert supervisor.suspects() == ["c"]
    with worker.encoding([JobId("d")]):
        assert supervisor.suspects() == ["c", "d"]
    assert supervisor.suspects() == ["c"]


def test_a_process_that_ends_itself_says_why_and_for_whose_sake(worker, supervisor) -> None:
    worker.begin([JobId("a")])
    assert supervisor.why_ended() == ""
    worker.last_words("crashed (" + 3000 * "\N{SNOWMAN}", [])
    assert supervisor.why_ended().startswith("crashed (\N{SNOWMAN}")
    assert supervisor.suspects() == []
    worker.last_words("crashed", [JobId("b")])
    assert supervisor.suspects() == ["b"]


def test_a_batch_of_any_size_can_be_named_at_the_cost_of_its_size(worker, supervisor) -> None:
    ids = [JobId(f"{n:036d}") for n in range(100_000)]
    worker.begin(ids)
    assert supervisor.suspects()[:50_000] == ids[:50_000]
    worker.begin(ids[:3])
    assert supervisor.suspects() == ids[:3]


def test_removing_it_leaves_who_maps_it_unharmed(worker, supervisor) -> None:
    supervisor.remove()
    worker.tick()
    worker.remove()
