"""Where a station's time goes: it works, waits for input, or waits for room behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class Shifts:
    """Seconds so far, in `seconds`. Written by one thread at a time, read by any."""

    def __init__(self) -> None:
        self.seconds = {"busy": 0.0, "input": 0.0, "room": 0.0}

    @contextmanager
    def _spent(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] += time.monotonic() - started

    def busy(self) -> AbstractContextManager[None]:
        """Around work."""
        return self._spent("busy")

    def input(self) -> AbstractContextManager[None]:
        """Around a wait for something to do."""
        return self._spent("input")

    def room(self) -> AbstractContextManager[None]:
        """Around a wait for somebody to take what is done."""
        return self._spent("room")
