"""The bell, over a broker in memory; and how tickets read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_app

from headrace.broker import PREDICT, Bell, queue, queues, ticket
from headrace.job import JobId, ModelKey, Priority
from headrace.settings import Settings

DIGITS = ModelKey("digits", 3)


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("headrace.broker.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return []


@pytest.fixture
def bell(clock: Clock, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Bell:
    """Rings into `sent`."""
    bell = Bell(Settings(broker_url="redis://127.0.0.1:1/0", broker_pause=5))
    monkeypatch.setattr(
        bell._app, "send_task", lambda name, **what: sent.append({"name": name, **what})
    )
    return bell


def ids(count: int) -> list[JobId]:
    return [JobId(str(n)) for n in range(count)]


def ring(bell: Bell, count: int = 1, batch: int = 64) -> bool:
    return bell.ring(DIGITS, "gpu", Priority.HIGH, ids(count), batch)


@pytest.mark.parametrize(("count", "batch", "tickets"), [(1, 64, 1), (64, 64, 1), (65, 64, 2)])
def test_a_ticket_per_batch(bell: Bell, sent, count: int, batch: int, tickets: int) -> None:
    assert ring(bell, count, batch)
    assert [t["kwargs"]["count"] for t in sent] == [batch] * (tickets - 1) + [
        count - batch * (tickets - 1)
    ]
    assert {t["name"] for t in sent} == {PREDICT}
    assert {t["queue"].name for t in sent} == {"headrace.gpu.high"}


def test_no_more_than_are_worth_their_cost(bell: Bell, sent) -> None:
    ring(bell, 100_000, 1)
    assert len(sent) == 16


def test_a_broker_that_failed_is_left_alone_for_a_while(
    bell: Bell, sent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = bell._app.send_task
    calls = []

    def broken(*args: object, **what: object) -> None:
        calls.append(args)
        raise OSError("connection refused")

    monkeypatch.setattr(bell._app, "send_task", broken)
    assert not ring(bell, 1000, 1)
    assert len(calls) == 2
    monkeypatch.setattr(bell._app, "send_task", working)
    clock.now += 4.9
    assert not ring(bell)
    assert sent == []
    clock.now += 0.2
    assert ring(bell)
    assert len(sent) == 1


@pytest.mark.parametrize(("seconds", "rung"), [(0.0, True), (1.5, False)])
def test_only_what_failed_at_once_is_tried_again(
    bell: Bell, sent, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, rung: bool
) -> None:
    working = bell._app.send_task

    def cut(*args: object, **what: object) -> None:
        monkeypatch.setattr(bell._app, "send_task", working)
        clock.now += seconds
        raise OSError("connection reset")

    monkeypatch.setattr(bell._app, "send_task", cut)
    assert ring(bell) is rung
    assert len(sent) == rung
    assert ring(bell) is rung  # where it failed for good, the broker is left alone


def test_a_ticket_reads_well_in_flower() -> None:
    many = ticket(DIGITS, ids(64))
    assert many["argsrepr"] == "digits@3 ×64"
    assert many["kwargsrepr"] == "0, 1, 2, …"
    assert many["kwargs"] == {"model": "digits@3", "count": 64, "ids": ["0", "1", "2"]}
    assert ticket(DIGITS, ids(2))["kwargsrepr"] == "0, 1"


def test_a_pool_has_a_queue_per_priority_most_urgent_first() -> None:
    names = [q.name for q in queues("gpu")]
    assert names == ["headrace.gpu.high", "headrace.gpu.normal", "headrace.gpu.bulk"]
    assert queue("gpu", Priority.BULK).name == names[2]


def test_a_users_own_celery_app_stays_the_current_one(bell: Bell) -> None:
    assert current_app._get_current_object() is not bell._app
    assert current_app.main != "headrace"
