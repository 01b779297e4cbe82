"""The Celery app, the queues, and the bell that rings workers with tickets.

A ticket says "a batch of digits@3 is due". It wakes a worker and is what Flower shows; it
carries no work, so nothing here needs to be durable: a lost ticket costs a poll interval.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from headrace.errors import ConfigError
from headrace.job import JobId, ModelKey, Priority
from headrace.settings import Settings, masked

PREDICT = "headrace.predict"
"""The ticket's task name."""

SWEEP = "headrace.sweep"
"""The task that does what the supervisors' timers do, for when no worker is alive."""

NIGHTLY = "headrace.nightly"
"""The task that ticks the schedules, for when no worker is alive."""

_MAX_TICKETS = 16
"""Of one submission. A ticket costs broker and worker milliseconds, and a worker that is awake
claims on without; workers that none of them wakes find the work at their next poll."""
_CONNECT_SECONDS = 5.0
_REDIS_SECONDS = 30.0
_log = logging.getLogger(__name__)


DEAD_LETTERS = Queue(
    "headrace.dead",
    Exchange("headrace.dead", type="fanout"),
    queue_arguments={"x-queue-type": "quorum", "x-max-length": 100_000},
)
"""Where RabbitMQ puts tickets that were delivered too often: for a person to look at."""

_QUEUE_ARGUMENTS = {
    # RabbitMQ's; Redis knows none of them. Without an exchange for dead letters, quorum queues
    # drop what goes over the limit without a word.
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": DEAD_LETTERS.exchange.name,
    # A full worker holds a few tickets for as long as its longest batch takes. Milliseconds.
    "x-consumer-timeout": 24 * 3600 * 1000,
}


def _queue(name: str) -> Queue:
    """Declared nowhere else, so with the same arguments on every side.

    Reached through the default exchange, which needs no binding: one that is missing makes
    messages vanish without a word on Redis, and looking it up costs a round trip per ticket.
    """
    return Queue(name, Exchange(""), routing_key=name, queue_arguments=_QUEUE_ARGUMENTS)


def queue(pool: str, priority: Priority) -> Queue:
    """The queue of a pool's tickets."""
    return _queue(f"headrace.{pool}.{priority.queue}")


CONTROL = _queue("headrace.control")
"""For tasks that are no tickets: a control worker's."""


def queues(pool: str) -> list[Queue]:
    """A pool's queues, most urgent first."""
    return [queue(pool, priority) for priority in Priority]


def make_app(settings: Settings, *, socket_timeout: float | None) -> Celery:
    """The Celery app, never the process's current one: a user's own tasks stay the user's.

    socket_timeout: seconds a call may hang on a dead connection; None is for a RabbitMQ
    consumer, which waits for hours and has heartbeats. Raises ConfigError.
    """
    app = Celery("headrace", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_queues=[*queues(settings.pool), CONTROL],
        task_default_queue=queue(settings.pool, Priority.NORMAL).name,
        task_default_exchange="",
        # A queue declared here with other arguments than there would break one of the two.
        task_create_missing_queues=False,
        task_publish_retry=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # RabbitMQ closes the channel of a consumer it finds too slow; that ends no worker.
        broker_channel_error_retry=True,
        broker_connection_timeout=_CONNECT_SECONDS,
        broker_heartbeat=30,
        broker_transport_options=_transport_options(settings.broker_url, socket_timeout),
    )
    return app


def _transport_options(url: str, socket_timeout: float | None) -> dict[str, Any]:
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme in ("redis", "rediss", "sentinel"):
        return {
            "socket_timeout": socket_timeout or _REDIS_SECONDS,
            "socket_connect_timeout": min(_CONNECT_SECONDS, socket_timeout or _CONNECT_SECONDS),
            "queue_order_strategy": "priority",
            # Leases in the job table are the recovery road; redelivery would only double work.
            "visibility_timeout": 7 * 24 * 3600,
        }
    if scheme in ("amqp", "amqps", "pyamqp"):
        options: dict[str, Any] = {"confirm_publish": True}
        if socket_timeout is not None:
            options |= {"read_timeout": socket_timeout, "write_timeout": socket_timeout}
        return options
    raise ConfigError(f"HEADRACE_BROKER_URL: no support for {masked(url)}")


class Bell:
    """Publishes tickets, and leaves a broker that does not answer alone for a while.

    Thread-safe. Nothing raises: the jobs are in the table, and idle workers look there.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings, socket_timeout=settings.broker_timeout)
        self._app.conf.broker_connection_timeout = settings.broker_timeout
        # One try: kombu's own would hold up a submission for seconds.
        self._app.conf.broker_transport_options["max_retries"] = 0
        self._patience = settings.broker_timeout
        self._pause = settings.broker_pause
        self._silent_until = float("-inf")

    def ring(
        self,
        model: ModelKey,
        pool: str,
        priority: Priority,
        ids: Sequence[JobId],
        batch: int,
    ) -> bool:
        """Publish a ticket per `batch` of the jobs. Returns whether the broker took them.

        At most 16: each wakes a worker, who then claims on without tickets.
        """
        target = queue(pool, priority)
        some = ids[: batch * _MAX_TICKETS]
        tickets = [ticket(model, some[at : at + batch]) for at in range(0, len(some), batch)]

        def publish(producer: Any) -> bool:
            for each in tickets:
                self._app.send_task(PREDICT, producer=producer, queue=target, retry=False, **each)
            return True

        return self._ask(publish)

    def silent(self, pool: str, priority: Priority) -> bool:
        """Whether no ticket waits there. False, too, where the broker does not answer."""

        def look(producer: Any) -> bool:
            with producer.connection.channel() as channel:
                declared = queue(pool, priority)(channel).queue_declare()
                return not declared.message_count

        return self._ask(look)

    def _ask(self, call: Callable[[Any], bool]) -> bool:
        """What `call` does with a producer; False where the broker does not answer."""
        if time.monotonic() < self._silent_until:
            return False
        try:
            return self._twice(call)
        except Exception as error:  # noqa: BLE001  # each broker library has errors of its own
            self._silent_until = time.monotonic() + self._pause
            _log.warning("broker unavailable, jobs wait for a poll: %s", error)
            return False

    def _twice(self, call: Callable[[Any], bool]) -> bool:
        """Once more where it fails at once: a connection may have been cut while it lay idle."""
        began = time.monotonic()
        try:
            with self._app.producer_or_acquire() as producer:
                return call(producer)
        except Exception:  # each broker library has errors of its own
            if time.monotonic() - began > self._patience / 2:
                raise
        with self._app.producer_or_acquire() as producer:
            return call(producer)

    def close(self) -> None:
        """Close the broker connections."""
        self._app.close()


def ticket(model: ModelKey, ids: Sequence[JobId]) -> dict[str, Any]:
    """A ticket's arguments, and how they read in Flower."""
    shown = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
    return {
        "kwargs": {"model": str(model), "count": len(ids), "ids": list(ids[:3])},
        "argsrepr": f"{model} ×{len(ids)}",
        "kwargsrepr": shown,
    }


def named(body: bytes | str) -> list[JobId]:
    """The first few of the jobs that a ticket was rung for."""
    _, arguments, _ = json.loads(body)
    return [JobId(id) for id in arguments["ids"]]
