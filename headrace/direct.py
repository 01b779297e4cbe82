"""The transport that needs no gateway: the service, called in this process."""

from __future__ import annotations

from headrace.broker import Bell
from headrace.db.engine import Database
from headrace.service import Service
from headrace.settings import load_settings
from headrace.storage import open_store


def connect(**overrides: object) -> Service:
    """A service over the configured database, store and broker.

    overrides: settings by name, such as ``database_url``. Raises ConfigError.
    """
    settings = load_settings(**overrides)
    return Service(Database(settings.database_url), open_store(settings), Bell(settings), settings)
