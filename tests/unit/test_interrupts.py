"""One signal raises, at a point where nothing is half-done; the next ones only hurry."""

import signal
import threading
from collections.abc import Iterator

import pytest

from headrace.stack.interrupts import Interrupts


@pytest.fixture
def interrupts(hangup: None) -> Iterator[Interrupts]:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        yield interrupts
        interrupts.leave()
        interrupts._pending = None
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, None)]
)
def test_the_first_signal_raises_and_the_next_hurries(interrupts, number, code):
    with pytest.raises(SystemExit if code else KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert getattr(caught.value, "code", None) == code
    assert not interrupts.hurry()
    signal.raise_signal(signal.SIGINT)
    assert interrupts.hurry()


def test_a_held_signal_raises_at_the_end_of_the_block(interrupts):
    passed = False

    def work() -> None:
        nonlocal passed
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            passed = True

    with pytest.raises(SystemExit):
        work()
    assert passed


def test_an_error_in_a_held_block_is_not_hidden_by_the_signal(interrupts):
    def work() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_while_leaving_a_signal_hurries_and_raises_only_when_all_is_left():
    def work() -> bool:
        with Interrupts() as interrupts:
            interrupts.leave()
            signal.raise_signal(signal.SIGTERM)
            hurried.append(interrupts.hurry())
        return True

    hurried: list[bool] = []
    with pytest.raises(SystemExit):
        work()
    assert hurried == [True]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.hurry()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_it_leaves_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
