"""The tickets in this worker's hands: which claim each led to, and when that is done.

Celery's objects belong to its main thread. So this book only decides; what it decides is
queued as callbacks, and the pool runs them there, a whole batch of them at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.job import JobId

Accepted = Callable[[int, float], None]
Succeeded = Callable[[tuple[int, str, float]], None]


@dataclass(eq=False, slots=True)
class _Ticket:
    accepted: Accepted
    succeeded: Succeeded
    claimed_at: float = 0.0
    jobs: int = 0
    open: set[JobId] = field(default_factory=set)
    device_seconds: float = 0.0


class Tickets:
    """Thread-safe. post: runs a list of callbacks in Celery's thread, soon."""

    def __init__(self, post: Callable[[list[Callable[[], Any]]], None]) -> None:
        self._post = post
        self._changed = threading.Condition()
        self._heard: deque[_Ticket] = deque()
        self._claims: dict[JobId, _Ticket] = {}
        self._woken = False

    def hear(self, accepted: Accepted, succeeded: Succeeded) -> None:
        """A ticket was delivered; it stays unacked until `accepted` is called."""
        with self._changed:
            self._heard.append(_Ticket(accepted, succeeded))
            self._changed.notify_all()

    def forget(self) -> None:
        """The connection is gone, and with it every ticket not acked: they will come again."""
        with self._changed:
            self._heard.clear()

    def wait(self, timeout: float) -> bool:
        """Wait for a ticket, up to `timeout` seconds; True when there is reason to look.

        False when a second has passed without one: the caller sees whether it is to stop.
        """
        with self._changed:
            if not self._heard and not self._woken and timeout > 0:
                self._changed.wait(min(timeout, 1.0))
            self._woken = False
            return bool(self._heard) or timeout <= 1.0

    def wake(self) -> None:
        """End a `wait`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def heard(self) -> int:
        """How many tickets are in hand: what an empty claim after this call answers."""
        with self._changed:
            return len(self._heard)

    def nothing_due(self, heard: int) -> None:
        """A claim begun with `heard` tickets in hand found nothing: they were stale."""
        with self._changed:
            stale = [self._heard.popleft() for _ in range(min(heard, len(self._heard)))]
        now = time.monotonic()
        self._post(
            [
                call
                for ticket in stale
                for call in (_accept(ticket, now), _succeed(ticket, "nothing due", 0.0))
            ]
        )

    def claimed(self, ids: Sequence[JobId]) -> None:
        """A claim has committed: one ticket, if there is one, is answered by it and acked."""
        with self._changed:
            if not self._heard:
                return
            ticket = self._heard.popleft()
            ticket.claimed_at = time.monotonic()
            ticket.jobs = len(ids)
            ticket.open = set(ids)
            for id in ids:
                self._claims[id] = ticket
        self._post([_accept(ticket, ticket.claimed_at)])

    def settled(self, ids: Iterable[JobId], device_seconds: float) -> None:
        """These jobs are out of the worker's hands; tickets whose claims are done succeed."""
        touched: set[_Ticket] = set()
        with self._changed:
            for id in ids:
                ticket = self._claims.pop(id, None)
                if ticket is not None:
                    ticket.open.discard(id)
                    touched.add(ticket)
            for ticket in touched:
                ticket.device_seconds += device_seconds
            done = [ticket for ticket in touched if not ticket.open]
        if done:
            now = time.monotonic()
            self._post([_succeed(t, _summary(t), now - t.claimed_at) for t in done])


def _summary(ticket: _Ticket) -> str:
    return f"{ticket.jobs} jobs, {ticket.device_seconds * 1000:.1f} ms on the device"


def _accept(ticket: _Ticket, at: float) -> Callable[[], Any]:
    return lambda: ticket.accepted(os.getpid(), at)


def _succeed(ticket: _Ticket, result: str, seconds: float) -> Callable[[], Any]:
    return lambda: ticket.succeeded((0, result, seconds))
