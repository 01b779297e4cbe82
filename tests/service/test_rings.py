"""Jobs without a ticket are rung for, where the next poll is minutes away."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import Client
from headrace.broker import Bell
from headrace.job import JobId, ModelKey, Priority
from headrace.settings import Settings
from tests.service.rig import Rig, rig

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def without_ticket(worker: Rig) -> list[JobId]:
    """Submit as a producer whose broker is away."""
    shared = {name: worker.settings[name] for name in ("database_url", "store_url")}
    with Client(broker_url=NOBODY, **shared) as producer:
        return producer.submit_many("echo", [{"op": "double", "value": 3}])


def has_looked(worker: Rig) -> None:
    """It polls when it begins; from now on it does not until an hour has passed."""
    worker.client.results(worker.submit("echo", [1]), timeout=30)


@pytest.fixture
def hearing(tmp_path: Path, database_url: str, broker_url: str) -> Iterator[Rig]:
    """A worker that never looks by itself, and whose supervisor sweeps every second."""
    with rig(tmp_path, database_url, broker_url, poll=3600.0) as worker:
        worker.push("echo")
        worker.start()
        yield worker


def test_the_sweep_rings_for_what_is_due(hearing: Rig) -> None:
    has_looked(hearing)
    (result,) = hearing.client.results(without_ticket(hearing), timeout=30)
    assert result["value"] == 6


def test_resume_rings(tmp_path: Path, database_url: str, redis_url: str) -> None:
    with rig(tmp_path, database_url, redis_url, lease=3600.0, poll=3600.0) as worker:
        worker.push("echo")
        worker.start()
        has_looked(worker)
        worker.client.pause("echo")
        ids = without_ticket(worker)
        assert worker.client.resume("echo")
        (result,) = worker.client.results(ids, timeout=30)
        assert result["value"] == 6


def test_a_queue_is_silent_until_a_ticket_waits_in_it(broker_url: str) -> None:
    bell = Bell(Settings(broker_url=broker_url))
    pool = f"p{secrets.token_hex(4)}"
    try:
        assert bell.silent(pool, Priority.HIGH)
        assert bell.ring(ModelKey("m", 1), pool, Priority.HIGH, [JobId("a")], 1)
        assert not bell.silent(pool, Priority.HIGH)
        assert bell.silent(pool, Priority.BULK)
    finally:
        bell.close()
