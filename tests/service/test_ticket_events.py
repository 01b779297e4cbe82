"""What Flower and ``celery events`` see of a ticket, through Celery's own events."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.broker import Bell, make_app
from headrace.settings import load_settings
from tests.service.rig import Rig, eventually, rig


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Rig]:
    database_url = request.getfixturevalue(getattr(request, "param", "database_url"))
    # Poll and sweep are far away: whatever is done soon was done for a ticket of the client's.
    with rig(tmp_path, database_url, redis_url, poll=3600.0, lease=3600.0) as worker:
        worker.push("echo", max_records=8)
        worker.start()
        yield worker


@pytest.fixture
def events(worker: Rig) -> Iterator[list[dict[str, Any]]]:
    """The worker's events from now on."""
    seen: list[dict[str, Any]] = []
    done = threading.Event()
    app = make_app(load_settings(broker_url=worker.settings["broker_url"]), socket_timeout=5)

    def note(event: dict[str, Any]) -> None:
        if event["hostname"].startswith(worker.pool):
            seen.append(event)

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": note})
            for _ in receiver.itercapture(limit=None, timeout=None, wakeup=True):
                if done.is_set():
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    eventually("the listener hears the worker", lambda: seen)
    yield seen
    done.set()
    thread.join(10)
    app.close()


def test_a_ticket_is_received_started_and_succeeds_and_reads_well(
    worker: Rig, events: list[dict[str, Any]]
) -> None:
    worker.client.results(worker.submit("echo", range(5)), timeout=60)
    eventually("it succeeds", lambda: [e for e in events if e["type"] == "task-succeeded"])
    of_tickets = {event["type"]: event for event in events if "uuid" in event}
    received = of_tickets["task-received"]
    assert received["name"] == "headrace.predict"
    assert received["args"] == "echo@1 ×5"
    assert received["kwargs"].endswith(", …")
    assert of_tickets["task-started"]["uuid"] == received["uuid"]
    succeeded = of_tickets["task-succeeded"]
    assert succeeded["uuid"] == received["uuid"]
    assert "5 jobs, " in succeeded["result"]
    assert " ms on the device" in succeeded["result"]
    assert 0 < succeeded["runtime"] < 60


@pytest.mark.parametrize("worker", ["postgresql_url"], indirect=True)
def test_a_ticket_that_a_knock_outran_reads_as_ever(
    worker: Rig, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[Any] = []
    ring = Bell.ring
    with monkeypatch.context() as held_up:
        held_up.setattr(Bell, "ring", lambda *ticket: published.append(ticket))
        worker.client.results(worker.submit("echo", [1]), timeout=60)
    for ticket in published:
        assert ring(*ticket)
    eventually("it succeeds", lambda: [e for e in events if e["type"] == "task-succeeded"])
    (result,) = [e["result"] for e in events if e["type"] == "task-succeeded"]
    assert "1 jobs, " in result


def test_every_ticket_ends_also_those_that_found_nothing_due(
    worker: Rig, events: list[dict[str, Any]]
) -> None:
    ids = [id for n in range(30) for id in worker.submit("echo", [n])]
    worker.client.results(ids, timeout=60)

    def of(kind: str) -> set[str]:
        return {event["uuid"] for event in list(events) if event["type"] == kind}

    eventually("all have ended", lambda: len(of("task-succeeded")) == 30)
    assert of("task-received") == of("task-succeeded")
