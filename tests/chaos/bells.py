"""Bells whose tickets go astray, between producers and the broker."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from headrace.broker import Bell

_LATEST = 3.0


class Doubling:
    """Delivers every ticket twice."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    def ring(self, *what: object) -> bool:
        return self._bell.ring(*what) and self._bell.ring(*what)

    def close(self) -> None:
        self._bell.close()


class Late:
    """Delivers tickets up to some seconds late, and in any order."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._held: list[tuple[object, ...]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def ring(self, *what: object) -> bool:
        with self._lock:
            self._held.append(what)
        return True

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._bell.close()

    def _deliver(self) -> None:
        rng = random.Random(0)
        closed = False
        while not closed:
            closed = self._closed.wait(rng.uniform(0, _LATEST))
            with self._lock:
                held, self._held = self._held, []
            for what in rng.sample(held, len(held)):
                self._bell.ring(*what)


class Silent:
    """Delivers none."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    def ring(self, *what: object) -> bool:
        return True

    def close(self) -> None:
        self._bell.close()


Astray = Callable[[Bell], Doubling | Late | Silent]
