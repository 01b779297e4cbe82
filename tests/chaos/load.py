"""Producers that keep a pool busy, one submission after the other, until they are told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from headrace import Client
from headrace.broker import Bell
from headrace.db.tables import jobs
from headrace.errors import DatabaseUnavailable
from headrace.job import TERMINAL, JobId
from tests.chaos.records import GOOD, TENANTS, Record, Submission, submissions
from tests.chaos.rig import MODEL, Late, Rig

_AHEAD, _AHEAD_IN_SHORT = 400, 150
BULK = (10, 120)
"""The fewest and the most records of a call that has many."""
_SINGLES = 3
_WATCH_SECONDS = 0.2
_LONE_SECONDS = 10.0


class Load:
    """One producer of many records a call, and three that submit one at a time.

    They go on until `finish`, and until there are `least` jobs. submitted: what was accepted;
    unsure: records of calls without a key that failed, of which nobody can know. cancelled:
    what a producer cancelled, and perhaps_cancelled what it may have. doubled: jobs too many
    that were made of calls under one key. done: jobs that have ended.
    bell: stands between producers and broker. ahead: jobs that wait or run, at most, for
    producers to go on; None: enough to keep every worker busy.
    """

    def __init__(
        self,
        rig: Rig,
        seed: int,
        least: int,
        poison: Mapping[str, int],
        bell: Callable[[Bell], object] | None = None,
        ahead: int | None = None,
    ) -> None:
        self._rig = rig
        self._least = least
        self._ahead = ahead or (_AHEAD_IN_SHORT if rig.short else _AHEAD)
        self._stopping = threading.Event()
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self.submitted: dict[JobId, Record] = {}
        self.cancelled: set[JobId] = set()
        self.perhaps_cancelled: set[JobId] = set()
        self.unsure = 0
        self.doubled = 0
        self.done = 0
        self.errors: list[BaseException] = []
        self._lone = Client(transport=rig.service())
        self._clients = {tenant: self._client(tenant, bell) for tenant in TENANTS}
        sizes = [BULK] + [(1, 1)] * _SINGLES
        self._threads = [
            threading.Thread(target=self._produce, args=(seed, producer, size, poison), daemon=True)
            for producer, size in enumerate(sizes)
        ]
        watch = threading.Thread(target=self._watch, daemon=True)
        for thread in (*self._threads, watch):
            thread.start()

    def finish(self, timeout: float) -> None:
        """Have the producers, and whoever holds tickets of theirs, come to an end. Raises Late."""
        self._stopping.set()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._rig.problems += [f"a producer failed: {error!r}" for error in self.errors]
        if any(thread.is_alive() for thread in self._threads):
            raise Late(f"not within {timeout:g} s: the producers are done")
        for client in self._clients.values():
            client.close()

    def until_more(self, jobs: int, seconds: float = 60) -> None:
        """Wait until so many more have ended. Raises Late."""
        until = self.done + jobs
        self._rig.until(f"{jobs} more jobs have ended", lambda: self.done >= until, seconds)

    def latency(self, jobs: int = 5) -> float:
        """Seconds that a lone job takes from submit to its end, at worst of so many in turn.

        Raises WaitTimeout.
        """
        worst = 0.0
        for _ in range(jobs):
            record = Record(-1, GOOD, "lone")
            started = time.monotonic()
            id = self._lone.submit(MODEL, record.inputs)
            self.submitted[id] = record
            self._lone.wait(id, timeout=_LONE_SECONDS)
            worst = max(worst, time.monotonic() - started)
        return worst

    def __str__(self) -> str:
        return f"the load: {self.done} of {len(self.submitted)} jobs have ended; {self.errors}"

    def abort(self) -> None:
        """Leave everything as it is."""
        self._aborted.set()
        for thread in self._threads:
            thread.join(5)

    def _client(self, tenant: str, bell: Callable[[Bell], object] | None) -> Client:
        service = self._rig.service()
        if bell is not None:
            service._bell = bell(service._bell)
        return Client(tenant=tenant, transport=service)

    def _produce(
        self, seed: int, producer: int, sizes: tuple[int, int], poison: Mapping[str, int]
    ) -> None:
        try:
            for submission in submissions(seed, producer, sizes, poison):
                while len(self.submitted) - self.done > self._ahead and not self._aborted.is_set():
                    time.sleep(0.01)
                enough = self._stopping.is_set() and len(self.submitted) >= self._least
                if enough or self._aborted.is_set():
                    return
                self._submit(self._clients[submission.tenant], submission)
        except BaseException as error:  # noqa: BLE001  # reported by `finish`
            self.errors.append(error)

    def _submit(self, client: Client, submission: Submission) -> None:
        ids = self._call(client, submission)
        if ids and submission.twice:
            again = self._call(client, submission)
            with self._lock:
                self.doubled += len(set(again) - set(ids))
        with self._lock:
            self.submitted |= zip(ids, submission.records, strict=bool(ids))
        if ids and submission.cancel:
            try:
                self.cancelled.update(client.cancel(ids))
            except DatabaseUnavailable:
                self.perhaps_cancelled.update(ids)

    def _call(self, client: Client, submission: Submission) -> list[JobId]:
        """The ids, from a producer who takes no failure for an answer where it has a key."""
        while not self._aborted.is_set():
            try:
                return client.submit_many(
                    MODEL,
                    [record.inputs for record in submission.records],
                    priority=submission.priority,
                    idempotency_key=submission.key,
                )
            except DatabaseUnavailable:
                if submission.key is None:
                    with self._lock:
                        self.unsure += len(submission.records)
                    return []
                time.sleep(0.1)
        with self._lock:
            self.unsure += len(submission.records)
        return []

    def _watch(self) -> None:
        ended = sa.select(sa.func.count()).where(jobs.c.state.in_([str(s) for s in TERMINAL]))
        while not self._aborted.wait(_WATCH_SECONDS):
            try:
                with self._rig.database.read() as connection:
                    self.done = connection.execute(ended).scalar_one()
            except DatabaseUnavailable:
                continue
