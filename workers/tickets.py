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
from headrace.news import FEW

Accepted = Callable[[int, float], None]
Succeeded = Callable[[tuple[int, str, float]], None]


_KEPT = 256
"""Jobs claimed without a ticket that are remembered for the ticket that follows."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    accepted: Accepted
    succeeded: Succeeded


@dataclass(eq=False, slots=True)
class _Claim:
    """Some jobs, and the tickets that they answer."""

    jobs: int
    open: set[JobId]
    tickets: list[_Ticket] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    device_seconds: float = 0.0


class Tickets:
    """Thread-safe. post: runs a list of callbacks in Celery's thread, soon."""

    def __init__(self, post: Callable[[list[Callable[[], Any]]], None]) -> None:
        self._post = post
        self._changed = threading.Condition()
        self._heard: deque[_Ticket] = deque()
        self._claims: dict[JobId, _Claim] = {}
        # What a knock or a poll led to, by job, until its ticket has come.
        self._early: dict[JobId, _Claim] = {}
        self._woken = False

    def hear(self, accepted: Accepted, succeeded: Succeeded, ids: Sequence[JobId]) -> None:
        """A ticket for `ids`, and perhaps more, was delivered.

        It stays unacked until `accepted` is called: once a claim has answered it, which may have
        come before it.
        """
        ticket = _Ticket(accepted, succeeded)
        with self._changed:
            early = [self._early.pop(id, None) for id in ids]
            claim = next(filter(None, early), None)
            if claim is None:
                self._heard.append(ticket)
                self._changed.notify_all()
                return
            claim.tickets.append(ticket)
            done = claim.ended is not None
        self._post([_accept(ticket, claim.began), *([_succeed(ticket, claim)] if done else [])])

    def forget(self) -> None:
        """The connection is gone, and with it every ticket not acked: they will come again."""
        with self._changed:
            self._heard.clear()

    def wait(self, timeout: float) -> bool:
        """Wait for a ticket or a `wake`, up to `timeout` seconds; whether there is reason to look.

        False when a second has passed without one: the caller sees whether it is to stop.
        """
        with self._changed:
            if not self._heard and not self._woken and timeout > 0:
                self._changed.wait(min(timeout, 1.0))
            woken, self._woken = self._woken, False
            return woken or bool(self._heard) or timeout <= 1.0

    def wake(self) -> None:
        """There is reason to look: this `wait`, or the next, ends."""
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
        nothing = _Claim(0, set(), ended=time.monotonic())
        self._post(
            [
                call
                for ticket in stale
                for call in (_accept(ticket, nothing.began), _succeed(ticket, nothing))
            ]
        )

    def claimed(self, ids: Sequence[JobId]) -> None:
        """A claim has committed: one ticket, if there is one, is answered by it and acked.

        Where there is none, one for a few of these jobs may be on its way.
        """
        with self._changed:
            claim = _Claim(len(ids), set(ids))
            if self._heard:
                claim.tickets.append(self._heard.popleft())
            elif len(ids) <= FEW:
                self._early |= dict.fromkeys(ids, claim)
                while len(self._early) > _KEPT:
                    del self._early[next(iter(self._early))]
            else:
                return
            self._claims |= dict.fromkeys(ids, claim)
            tickets = list(claim.tickets)
        self._post([_accept(ticket, claim.began) for ticket in tickets])

    def settled(self, ids: Iterable[JobId], device_seconds: float) -> None:
        """These jobs are out of the worker's hands; tickets whose claims are done succeed."""
        touched: set[_Claim] = set()
        with self._changed:
            for id in ids:
                claim = self._claims.pop(id, None)
                if claim is not None:
                    claim.open.discard(id)
                    touched.add(claim)
            for claim in touched:
                claim.device_seconds += device_seconds
                if not claim.open:
                    claim.ended = time.monotonic()
            done = [(t, claim) for claim in touched if not claim.open for t in claim.tickets]
        if done:
            self._post([_succeed(ticket, claim) for ticket, claim in done])


def _accept(ticket: _Ticket, at: float) -> Callable[[], Any]:
    return lambda: ticket.accepted(os.getpid(), at)


def _succeed(ticket: _Ticket, claim: _Claim) -> Callable[[], Any]:
    summary = f"{claim.jobs} jobs, {claim.device_seconds * 1000:.1f} ms on the device"
    seconds = (claim.ended or claim.began) - claim.began
    return lambda: ticket.succeeded((0, summary if claim.jobs else "nothing due", seconds))
