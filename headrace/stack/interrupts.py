"""SIGINT, SIGTERM and SIGHUP as one exception, at a point where nothing is half-done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """In a ``with`` block of the main thread, the first signal raises; later ones only count.

    So the unwinding that the first one started, or that `leave` announced, is never itself
    interrupted; it may look at `hurry`. SIGINT raises KeyboardInterrupt, the others
    SystemExit(128 + number). A signal that is ignored stays so (nohup). In another thread the
    block does nothing, as Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._pending: int | None = None
        self._held = False
        self._leaving = False
        self._again = False

    def hurry(self) -> bool:
        """Whether a signal came during the unwinding."""
        return self._again

    def leave(self) -> None:
        """From now on signals only ask to hurry."""
        self._leaving = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes in this block raises at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending is not None and not self._leaving:
            self._raise(self._pending)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending is not None and kind is None:
            self._raise(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._leaving:
            self._again = True
        if self._pending is None:
            self._pending = number
            if not self._held and not self._leaving:
                self._raise(number)

    def _raise(self, number: int) -> None:
        self._leaving = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
