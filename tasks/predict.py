"""The ticket: "a batch of digits@3 is due". It wakes a worker and shows in Flower."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.broker import PREDICT
from headrace.errors import ConfigError
from tasks.app import app


# Acked when the claim that it led to has committed: from there the lease owns the work.
@app.task(name=PREDICT, acks_late=False)  # type: ignore[untyped-decorator]  # Celery has no types
def predict(model: str, count: int, ids: Sequence[str]) -> str:
    """Never called by a Headrace worker, whose pool claims from the job table instead.

    model: ``digits@3``. count: jobs due when the ticket was rung. ids: a few, for a reader.
    """
    raise ConfigError(
        "headrace.predict runs in Headrace's own pool: start the worker with `headrace worker`"
    )
