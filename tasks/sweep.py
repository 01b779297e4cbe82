"""What every supervisor's timer does too; this one goes on when no worker is alive."""

from __future__ import annotations

import functools

from headrace.broker import SWEEP, Bell
from headrace.db.engine import Database
from headrace.storage import open_store
from headrace.sweeper import Sweeper
from tasks.app import app, settings


@functools.cache
def _sweeper() -> Sweeper:
    """One per process."""
    database, store = Database(settings.database_url), open_store(settings)
    return Sweeper(database, store, settings, Bell(settings))


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]  # Celery has no types
def sweep() -> str:
    """See `headrace.sweeper`."""
    swept = _sweeper().sweep()
    return "swept a short while ago" if swept is None else str(swept)
