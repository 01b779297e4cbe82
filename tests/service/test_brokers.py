"""Tickets over each broker, with the job table in PostgreSQL.

The workers here look for jobs without a ticket once an hour, and nobody sweeps in that time: what
runs was rung for.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from headrace.broker import DEAD_LETTERS, Bell, queues
from headrace.job import JobId, JobState, ModelKey, Priority
from headrace.settings import Settings
from tests.chaos.proxy import link
from tests.service.rig import Rig, eventually, rig


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def running(
    tmp_path: Path, postgresql_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    monkeypatch.setattr("headrace.knocks.FEW", 0)  # tickets have to do without knocks
    with rig(tmp_path, postgresql_url, broker_url, poll=3600, lease=3600) as made:
        made.push("echo")
        made.start()
        yield made


def test_a_ticket_wakes_a_worker_that_would_not_look(running: Rig) -> None:
    for value in range(5):
        job = running.client.submit("echo", {"op": "double", "value": value})
        assert running.client.result(job, timeout=60)["value"] == 2 * value
    many = running.submit("echo", range(500))
    assert {job.state for job in running.client.wait(many, timeout=60)} == {JobState.SUCCEEDED}


def test_a_connection_that_was_cut_while_idle_silences_no_bell(broker_url: str) -> None:
    server = urlsplit(broker_url)
    with link(lambda: socket.create_connection((server.hostname, server.port))) as way:
        netloc = f"{server.netloc.rpartition(':')[0]}:{way.port}"
        settings = Settings(broker_url=server._replace(netloc=netloc).geturl())
        with closing(Bell(settings)) as bell:
            model, one = ModelKey("digits", 1), [JobId("1")]
            assert bell.ring(model, "cut", Priority.NORMAL, one, 64)
            way.reset()
            assert bell.ring(model, "cut", Priority.NORMAL, one, 64)
    with Connection(broker_url) as connection:
        eventually("both tickets are there", lambda: _waiting(connection, "cut") >= 2)


def test_tickets_of_every_priority_are_heard(running: Rig) -> None:
    for priority in Priority:
        job = running.client.submit("echo", {"op": "double", "value": 1}, priority=priority)
        assert running.client.wait(job, timeout=60).state is JobState.SUCCEEDED


def test_tickets_are_acked_and_stale_ones_drained(running: Rig, broker_url: str) -> None:
    # A ticket each, rung faster than batches form: most find nothing left to claim.
    jobs = [running.client.submit("echo", {"op": "double", "value": v}) for v in range(100)]
    running.client.wait(jobs, timeout=60)
    with Connection(broker_url) as connection:
        eventually("no ticket waits", lambda: _waiting(connection, running.pool) == 0)
    assert running.drain() == 0


def test_a_queue_that_is_deleted_under_the_worker_costs_no_job(
    running: Rig, broker_url: str
) -> None:
    with Connection(broker_url) as connection:
        channel = connection.channel()
        for queue in queues(running.pool):
            channel.queue_delete(queue.name)
    job = running.client.submit("echo", {"op": "double", "value": 4}, deadline=3600)
    # Redis has the queue again at the next push; RabbitMQ's consumer was cancelled, and
    # reconnects. Either way the job is safe in the table, and whoever looks finds it.
    running.process.stop(grace=10)
    running.start()
    other = running.client.submit("echo", {"op": "double", "value": 5})
    assert running.client.result(other, timeout=60)["value"] == 10
    assert running.client.result(job, timeout=60)["value"] == 8


def test_rabbitmq_has_quorum_queues_with_limits_and_dead_letters(
    tmp_path: Path, postgresql_url: str, rabbitmq_url: str
) -> None:
    with rig(tmp_path, postgresql_url, rabbitmq_url) as made:
        made.push("echo")
        made.start()
        with Connection(rabbitmq_url) as connection:
            channel = connection.channel()
            # RabbitMQ refuses a second declaration whose arguments differ from the first.
            for queue in (*queues(made.pool), DEAD_LETTERS):
                queue(channel).declare()
            [high, *_] = queues(made.pool)
            arguments = high.queue_arguments
            assert arguments["x-queue-type"] == "quorum"
            assert arguments["x-delivery-limit"] > 0
            # A ticket that is refused for good lands where a person can look at it.
            producer = connection.Producer()
            made.drain()
            producer.publish({"poison": True}, routing_key=high.name, exchange=high.exchange.name)
            channel = connection.channel()
            deadline = time.monotonic() + 10
            message = None
            while message is None and time.monotonic() < deadline:
                message = high(channel).get()
            assert message is not None
            message.reject()
            dead = DEAD_LETTERS(channel)
            eventually("the ticket is among the dead", lambda: dead.get(no_ack=True))


def _waiting(connection: Connection, pool: str) -> int:
    """How many tickets nobody has taken."""
    count = 0
    for queue in queues(pool):
        # Redis has no empty lists, and kombu calls those missing.
        with suppress(connection.channel_errors), connection.channel() as channel:
            count += channel.queue_declare(queue.name, passive=True).message_count
    return count
