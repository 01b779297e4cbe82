"""What every supervisor's timer does too; this one goes on when no worker is alive.

Beat is only the tick: how many there are, and how often they come, decides nothing.
"""

from __future__ import annotations

import functools

from headrace.broker import NIGHTLY
from headrace.nightly import ticker_of
from headrace.schedules.ticker import Ticker
from tasks.app import app, settings


@functools.cache
def _ticker() -> Ticker:
    """One per process."""
    return ticker_of(settings)


@app.task(name=NIGHTLY)  # type: ignore[untyped-decorator]  # Celery has no types
def nightly() -> str:
    """See `headrace.schedules.ticker`."""
    return str(_ticker().tick())
