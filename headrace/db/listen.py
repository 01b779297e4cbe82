"""PostgreSQL's LISTEN: what one process announces, another hears without asking."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from headrace.db.engine import Database

_log = logging.getLogger(__name__)
_ROUND_SECONDS = 0.25
_RETRY_SECONDS = 5.0


class Listener:
    """Calls `hear` with each payload, in a thread of its own with a connection of its own.

    What is announced while the connection is down is lost, so `hear` may only save its caller
    a wait. idle: seconds without `listen` after which the connection is let go. listening: whether
    there is one.
    """

    def __init__(
        self, database: Database, channel: str, hear: Callable[[str], None], *, idle: float
    ) -> None:
        self._database = database
        self._channel = channel
        self._hear = hear
        self._idle = idle
        self.listening = False
        self._until = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Listen from now on, for another `idle` seconds. Returns at once; no-op on SQLite."""
        self._until = time.monotonic() + self._idle
        if self._thread is None and self._database.engine.dialect.name == "postgresql":
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="listen", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Stop, within a fraction of a second."""
        self._until = 0.0

    def _run(self) -> None:
        while True:
            try:
                self._hear_all()
            except Exception as error:  # noqa: BLE001  # the driver's: the connection is gone
                self.listening = False
                _log.debug("not listening for a while: %s", error)
                time.sleep(_RETRY_SECONDS)
            with self._lock:
                if time.monotonic() >= self._until:
                    self.listening = False
                    self._thread = None
                    return

    def _hear_all(self) -> None:
        with self._database.detached() as connection:
            connection.execute(f'LISTEN "{self._channel}"')
            self.listening = True
            while time.monotonic() < self._until:
                for notice in connection.notifies(timeout=_ROUND_SECONDS):
                    self._hear(notice.payload)
