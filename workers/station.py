"""A thread that does one kind of thing until it is told to stop, and never dies unnoticed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Station:
    """Runs `step` again and again in a thread of its own.

    step: one round; returns False when the station has nothing more to do, ever.
    cpu_seconds: processor time its thread has taken, up to its last round.
    on_crash: gets whatever `step` raised. A station that died silently would hold jobs
    under a lease that its healthy process goes on renewing.
    """

    def __init__(
        self, name: str, step: Callable[[], bool], on_crash: Callable[[BaseException], None]
    ) -> None:
        self._step = step
        self._on_crash = on_crash
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.cpu_seconds = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the station's end; returns whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._step():
                self.cpu_seconds = time.thread_time()
        except BaseException as error:  # noqa: BLE001  # nothing may get lost here
            _log.critical("station %s died", self._thread.name, exc_info=error)
            self._on_crash(error)
