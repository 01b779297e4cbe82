"""What Celery sees of the stations: a worker pool that takes tickets.

Celery keeps its stock strategy, so events, revoke, inspect and Flower work as everywhere.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar, Protocol

from celery.concurrency.base import BasePool, apply_target

from headrace.broker import PREDICT, named
from workers.tickets import Tickets

_log = logging.getLogger(__name__)


class Stations(Protocol):
    """What the pool needs of `workers.wiring.Host`."""

    tickets: Tickets

    def start(self) -> None:
        """Warm up and take work; returns when warm."""

    def begin_drain(self) -> None:
        """Claim no more; finish the running batch; give the rest back."""

    def drained(self) -> bool:
        """Whether nothing is left to do."""

    def info(self) -> dict[str, Any]:
        """Figures for ``celery inspect stats`` and Flower."""


class Mailbox:
    """Callbacks on their way from any thread to Celery's, where its objects live."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], Any]] = deque()
        self._posted = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def connect(self, hub: Any) -> None:
        """Deliver in the loop of `hub`.

        As a reader, not by its `call_soon`: an ack is one more `call_soon`, and what is called
        from there waits until the loop wakes up again, up to seconds. With the prefetch full of
        such acks the broker delivers nothing that could wake it.
        """
        hub.add_reader(self._posted, self.deliver)

    def post(self, calls: list[Callable[[], Any]]) -> None:
        """Have these called, in order: one wake-up for all of them."""
        self._calls.extend(calls)
        os.eventfd_write(self._posted, 1)

    def deliver(self) -> None:
        """Call what was posted. One that fails costs its ticket's event, nothing else."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._posted)
        while self._calls:
            call = self._calls.popleft()
            try:
                call()
            except Exception:  # noqa: BLE001  # Celery's, kombu's and the broker library's
                _log.exception("a ticket could not be answered")


class BatchPool(BasePool):
    """One process, one device. Subclassed by `pool_for`, which knows the stations."""

    stations: ClassVar[Stations]
    mailbox: ClassVar[Mailbox]

    def on_start(self) -> None:
        """Warm up before the first ticket is taken."""
        # Tasks that are not tickets run as Celery runs them, out of the loop's way.
        self._side = ThreadPoolExecutor(1, thread_name_prefix="tasks")
        self.stations.start()

    def register_with_event_loop(self, hub: Any) -> None:
        """Celery has a (new) connection and loop."""
        self._hub = hub
        self.mailbox.connect(hub)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        callback: Callable[..., Any],
        accept_callback: Callable[..., Any],
        **options: Any,
    ) -> None:
        """A message was delivered."""
        if args and args[0] == PREDICT:
            self.stations.tickets.hear(accept_callback, callback, named(args[3]))
            return
        # The tracer answers in its own thread; what it answers belongs to this one.
        self._side.submit(
            apply_target,
            target,
            args,
            kwargs,
            callback=lambda result: self.mailbox.post([lambda: callback(result)]),
            accept_callback=lambda pid, at: self.mailbox.post([lambda: accept_callback(pid, at)]),
        )

    def flush(self) -> None:
        """The connection is lost: what was not acked is void, and will be delivered again."""
        self.stations.tickets.forget()

    def on_close(self) -> None:
        """Warm shutdown: drain while the connection still carries events and heartbeats."""
        self.stations.begin_drain()
        while not self.stations.drained():
            self.mailbox.deliver()
            hub = getattr(self, "_hub", None)
            if hub is not None:
                hub.fire_timers()
            time.sleep(0.01)
        self.mailbox.deliver()
        self._side.shutdown(wait=True)
        self.mailbox.deliver()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """A revoked ticket that runs: its jobs go on; `Client.cancel` is for jobs."""

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), **self.stations.info()}

    @property
    def num_processes(self) -> int:
        """One device."""
        return 1


def pool_for(stations: Stations, mailbox: Mailbox) -> type[BatchPool]:
    """The pool class that Celery instantiates, bound to these stations."""
    return type("BatchPool", (BatchPool,), {"stations": stations, "mailbox": mailbox})
