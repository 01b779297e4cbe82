"""Keeps a worker process honest: holds its lease, kills it when it hangs, starts it again.

The lease lives here and not in the worker, so that a worker whose Python is busy does not
lose it, and a worker that hangs does not keep it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import uuid_utils

from headrace.broker import Bell
from headrace.db import workers
from headrace.db.engine import Database
from headrace.errors import DatabaseUnavailable, HeadraceError
from headrace.heartbeat import Heartbeat
from headrace.job import JobId, WorkerId
from headrace.settings import Settings
from headrace.storage import open_store
from headrace.sweeper import Sweeper
from workers.faults import reach
from workers.progress import Progress

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.1
_TICK_LIMIT = 120.0
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
_HEALTHY_SECONDS = 60.0
_KILL_WAIT = 5.0
_RETRY_SECONDS = 1.0
EXIT_LEFT = 128 + signal.SIGQUIT
_NEAR = 0.9
_ALIVE_SECONDS = 60.0
_AWAY_SECONDS = 10.0
"""A supervisor that has not looked for this long, or for a lease, was paused itself."""


class Slot:
    """One device, and the worker process that has it just now."""

    def __init__(self, settings: Settings, database: Database, device: str) -> None:
        self.device = device
        self._settings = settings
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None
        self._worker = WorkerId("")
        self._progress: Progress | None = None
        self._renew_at = 0.0
        self._started_at = 0.0
        self._looked_at = 0.0
        self._watched_since = 0.0
        self._pause = _FIRST_PAUSE
        self._start_at = 0.0
        self._killed: str | None = None
        self._spared = False
        self._outgrown = False
        self._unretired: list[tuple[WorkerId, list[JobId], str]] = []

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def trouble(self) -> str | None:
        """Why a process was killed that is still there: only a driver that hangs can do that."""
        return f"{self.device}: {self._killed}" if self.running and self._killed else None

    def look(self, *, stopping: bool) -> None:
        """One round without the database: notice a death, kill what hangs."""
        now = time.monotonic()
        if now - self._looked_at > max(_AWAY_SECONDS, self._settings.lease):
            # This process was paused, perhaps with its worker: that one gets its time again.
            self._watched_since = now
        self._looked_at = now
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code, now, stopping)
        elif why := self._stuck():
            self._kill(f"was killed because {why}")
        elif self._settings.worker_memory:
            self._bound_memory(self._settings.worker_memory)

    def settle(self, *, stopping: bool) -> None:
        """One round with the database: free a dead worker's jobs, renew, start the next.

        Raises DatabaseUnavailable; then nobody is killed for it.
        """
        now = time.monotonic()
        self._retire()
        if self._process is None:
            if not stopping and now >= self._start_at:
                self._start(now)
        elif now >= self._renew_at and not self._stuck():
            self._renew(now)

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if there is one. Its jobs are not blamed for a SIGKILL."""
        if self._process is not None:
            self._spared = self._spared or number is signal.SIGKILL
            self._process.send_signal(number)

    def _start(self, now: float) -> None:
        worker = WorkerId(str(uuid_utils.uuid7()))
        with self._database.write() as connection:
            workers.register(
                connection,
                worker,
                pool=self._settings.pool,
                device=self.device,
                host=socket.gethostname(),
                pid=os.getpid(),
                lease=self._settings.lease,
            )
        reach("registered")
        self._worker = worker
        self._progress = Progress.create()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.child"],
            # Threads of OpenMP spin between two batches unless told to sleep, and take the
            # processor from the other stations.
            env={"OMP_WAIT_POLICY": "PASSIVE"}
            | os.environ
            | {
                "HEADRACE_WORKER_ID": worker,
                "HEADRACE_DEVICE": self.device,
                "HEADRACE_PROGRESS": str(self._progress.path),
                "HEADRACE_SUPERVISOR": str(os.getpid()),
                "HEADRACE_POOL": self._settings.pool,
            },
            # Ctrl-C reaches the whole foreground group; the supervisor alone passes it on.
            process_group=0,
        )
        self._killed, self._spared, self._outgrown = None, False, False
        self._started_at = now
        self._renew_at = now + self._settings.lease / 3
        _log.info("%s: worker %s, pid %d", self.device, worker, self._process.pid)

    def _ended(self, code: int, now: float, stopping: bool) -> None:
        assert self._progress is not None
        self._process = None
        self._progress.remove()
        suspects = [] if self._spared else self._progress.suspects()
        why = self._killed or self._progress.why_ended() or _ending(code)
        self._unretired.append((self._worker, suspects, why))
        reach("died")
        if stopping:
            return
        # Jobs that end their worker are isolated the sooner the next one is there.
        healthy = suspects or now - self._started_at > _HEALTHY_SECONDS
        self._pause = _FIRST_PAUSE if healthy else min(2 * self._pause, _LAST_PAUSE)
        self._start_at = now + self._pause
        _log.log(
            logging.ERROR if code else logging.INFO,
            "%s: worker %s ended with %d, next in %.1f s",
            self.device,
            self._worker,
            code,
            self._pause,
        )

    def _retire(self) -> None:
        """The process is gone for certain, so its work need not wait for the lease."""
        while self._unretired:
            worker, suspects, why = self._unretired[0]
            with self._database.write() as connection:
                freed = workers.retire(
                    connection,
                    worker,
                    suspects=suspects,
                    why=why,
                    quarantine_after=self._settings.quarantine_after,
                )
            self._unretired.pop(0)
            if freed.given_back or freed.suspects or freed.quarantined:
                _log.warning("%s: %s", self.device, freed)

    def _stuck(self) -> str | None:
        assert self._progress is not None
        return self._progress.stuck(_TICK_LIMIT, self._watched_since)

    def _bound_memory(self, limit: int) -> None:
        """A worker that comes near the limit is replaced between two batches; over it, at once."""
        assert self._process is not None
        used = resident(self._process.pid)
        grown = f"it has grown to {used >> 20} MiB, of {limit >> 20} MiB in HEADRACE_WORKER_MEMORY"
        if used > limit:
            self._kill(f"was killed because {grown}")
        elif used > _NEAR * limit and not self._outgrown:
            self._outgrown = True
            _log.warning("%s: worker %s is replaced because %s", self.device, self._worker, grown)
            self.send(signal.SIGTERM)

    def _renew(self, now: float) -> None:
        with self._database.single() as connection:
            held = workers.renew(connection, self._worker, self._settings.lease)
        self._renew_at = now + self._settings.lease / 3
        if not held:
            self._kill("was killed because its lease was lost", spare=True)

    def _kill(self, why: str, *, spare: bool = False) -> None:
        """spare: it is not for anything that its jobs did."""
        _log.error("%s: worker %s %s", self.device, self._worker, why)
        self._killed, self._spared = why, spare
        if self._process is not None:
            self._process.kill()


def resident(pid: int) -> int:
    """Bytes of memory that the process occupies; 0 where it has just ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _ending(code: int) -> str:
    """An exit code as in "the worker …"."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"


class Supervisor:
    """Runs one worker per device until it is told to stop."""

    def __init__(self, settings: Settings, devices: Sequence[str]) -> None:
        self._settings = settings
        # A call that hangs must leave time for another before the leases run out.
        self._database = Database(settings.database_url, patience=settings.lease / 3)
        self._ask_at = 0.0
        self._slots = deque(Slot(settings, self._database, device) for device in devices)
        self._told: list[int] = []
        self._heartbeat = Heartbeat(max(_ALIVE_SECONDS, settings.lease))

    def run(self) -> int:
        """Supervise until a signal.

        Returns the exit code: 0 where everything drained in time, else EXIT_LEFT.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, frame: self._told.append(number))
        for chore in (self._sweep, self._tick):
            threading.Thread(target=chore, name=chore.__name__, daemon=True).start()
        try:
            while not self._told:
                self._look(stopping=False)
                time.sleep(_LOOK_SECONDS)
            return self._stop()
        finally:
            self._heartbeat.remove()

    def _look(self, *, stopping: bool) -> None:
        """One round over all slots."""
        for slot in self._slots:
            slot.look(stopping=stopping)
        self._heartbeat.beat([why for slot in self._slots if (why := slot.trouble)])
        if time.monotonic() < self._ask_at:
            return
        for _ in self._slots:
            slot = self._slots[0]
            self._slots.rotate(-1)
            try:
                slot.settle(stopping=stopping)
            except DatabaseUnavailable as error:
                # The next round begins with another slot: the fault may be this one's alone.
                _log.warning("%s: %s", slot.device, error)
                self._ask_at = time.monotonic() + min(_RETRY_SECONDS, self._settings.lease / 10)
                return

    def _stop(self) -> int:
        """Drain within the grace period; SIGQUIT, a second signal or its end cut that short."""
        _log.info("draining, at most %g s", self._settings.grace)
        for slot in self._slots:
            slot.send(signal.SIGTERM)
        end = time.monotonic() + self._settings.grace
        killed = False
        while any(slot.running for slot in self._slots):
            self._look(stopping=True)
            hurry = len(self._told) > 1 or signal.SIGQUIT in self._told
            if not killed and (hurry or time.monotonic() > end):
                killed = True
                end = time.monotonic() + _KILL_WAIT
                for slot in self._slots:
                    slot.send(signal.SIGKILL)
            elif killed and time.monotonic() > end:
                break  # the database is away too: the leases run out by themselves
            time.sleep(_LOOK_SECONDS / 2)
        self._database.close()
        return EXIT_LEFT if killed else 0

    def _sweep(self) -> None:
        """Sweep until the process ends: in a thread, for a sweep may wait where no renewal must."""
        database, store = Database(self._settings.database_url), open_store(self._settings)
        sweeper = Sweeper(database, store, self._settings, Bell(self._settings))
        sweeper.run(threading.Event())

    def _tick(self) -> None:
        """Look after schedules until the process ends: in a thread, as a sweep is."""
        try:
            from headrace.nightly import ticker_of

            ticker = ticker_of(self._settings)
        except HeadraceError as error:
            _log.warning("schedules are left to other workers: %s", error)
            return
        ticker.run(threading.Event())
