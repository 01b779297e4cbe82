"""Celery's consumer, less a step that Headrace has no use for, plus one that it needs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer as CeleryConsumer

from headrace.broker import DEAD_LETTERS


class DeadLetters(bootsteps.StartStopStep):
    """Declares where RabbitMQ puts tickets that were delivered too often."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:
        """On every connection, for the broker may have been wiped."""
        if c.connection.transport.driver_type == "amqp":
            DEAD_LETTERS(c.connection.default_channel).declare()


class Consumer(CeleryConsumer):
    """Without delayed delivery, 28 exchanges for ETA tasks: delays live in the job table."""

    class Blueprint(CeleryConsumer.Blueprint):
        """Celery's steps, in Celery's order."""

        default_steps = (
            *(s for s in CeleryConsumer.Blueprint.default_steps if "delayed_delivery" not in s),
            DeadLetters,
        )
