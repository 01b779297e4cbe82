"""Whoever ticks: schedules, datasets and messages put together for one process."""

from __future__ import annotations

from headrace.broker import Bell
from headrace.dataset_runs import DatasetRuns
from headrace.dataset_service import DatasetService
from headrace.db import schedules
from headrace.db.engine import Database
from headrace.schedules.telling import Teller, notifiers_of
from headrace.schedules.ticker import Ticker
from headrace.settings import Settings
from headrace.storage import open_store


def ticker_of(settings: Settings) -> Ticker:
    """A ticker with connections of its own. Raises ConfigError, NotInstalled."""
    database = Database(settings.database_url)
    service = DatasetService(database, open_store(settings), Bell(settings), settings)
    teller = Teller(database, notifiers_of(settings), schedules.turn, settings.retention)
    return Ticker(database, DatasetRuns(service), teller, settings)
