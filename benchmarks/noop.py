"""The least that Celery can do: a task that does nothing. NOOP_BROKER, NOOP_BACKEND."""

from __future__ import annotations

import os

from celery import Celery

NOOP = "noop.noop"


def make(broker: str | None, backend: str | None = None) -> Celery:
    """A side of the queue: the worker's, or a producer's."""
    made = Celery("noop", broker=broker, backend=backend, set_as_current=False)
    made.conf.update(
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        task_default_queue="noop",
    )
    return made


app = make(os.environ.get("NOOP_BROKER"), os.environ.get("NOOP_BACKEND"))


@app.task(name=NOOP)  # type: ignore[untyped-decorator]  # Celery has no types
def noop() -> None:
    """Nothing."""
