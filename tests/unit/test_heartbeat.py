"""A supervisor's sign of life, as another process of the host reads it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace import heartbeat
from headrace.heartbeat import Heartbeat, listen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(heartbeat, "time", clock)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return clock


@pytest.fixture
def beating(clock: SimpleNamespace) -> Iterator[Heartbeat]:
    beating = Heartbeat(60)
    yield beating
    beating.remove()


def test_one_that_goes_round_is_well(beating: Heartbeat, clock: SimpleNamespace) -> None:
    for _ in range(3):
        clock.now += 50
        beating.beat(())
    assert listen() == [""]


def test_one_that_stands_still_is_not(beating: Heartbeat, clock: SimpleNamespace) -> None:
    clock.now += 61
    (trouble,) = listen()
    assert trouble.startswith(f"supervisor {os.getpid()}: it stands still")


def test_it_says_what_it_cannot_mend_until_it_could(beating: Heartbeat) -> None:
    beating.beat(["cuda:0: was killed", "cuda:1: was killed"])
    assert listen()[0].endswith(": cuda:0: was killed; cuda:1: was killed")
    beating.beat(())
    assert listen() == [""]


def test_what_a_killed_one_left_is_cleared_away(clock: SimpleNamespace) -> None:
    dead = Heartbeat(60)
    os.close(dead._file)  # as the kernel does, and with it goes the lock
    assert listen() == []
    assert not dead._path.exists()


def test_one_that_ended_leaves_nothing(clock: SimpleNamespace, tmp_path: Path) -> None:
    Heartbeat(60).remove()
    assert listen() == []
    assert list(tmp_path.iterdir()) == []
