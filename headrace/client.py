"""`Client`: submit jobs, wait for them, take their results.

with Client() as client:
    job = client.submit("digits", image)
    print(client.result(job)["logits"])
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, overload

import numpy as np

from headrace.dataset import DatasetId
from headrace.dataset_client import DatasetCalls
from headrace.errors import InvalidInput, JobUnfinished, WaitTimeout
from headrace.job import Job, JobId, JobState, Pause, Priority
from headrace.schedule_calls import ScheduleCalls
from headrace.transport import (
    Filter,
    Page,
    Result,
    Status,
    Submission,
    Transport,
    priority_of,
    seconds_of,
)

_FIRST_POLL, _LAST_POLL = 0.005, 1.0
_QUESTIONABLE = 0.05
_POLL_GROWTH = 1.25
# However many jobs it asks for, a wait spends a tenth of its time asking, once it takes long.
_IDLE_PER_ASK, _QUICK_ASK = 9, 0.005

Ids = list[JobId]
Jobs = list[Job]
Results = list[Result]
Pauses = list[Pause]
Heard = Mapping[JobId, Result]
Progressed = bool | Callable[[int, int], None]
"""True for a progress bar on stderr, or a function of (jobs done, jobs in all)."""


class Client(DatasetCalls):
    """A producer's view of Headrace. Thread-safe; close it, or use it in a ``with`` block.

    Without arguments it reads ``HEADRACE_*`` settings and talks to the job table directly
    (needs ``headrace[server]``); keyword arguments override single settings, such as
    ``database_url``. `transport` injects another way to carry the calls.

    tenant: on whose behalf jobs are submitted and listed. Workers take turns between tenants,
    so that one's million jobs do not hold up another's ten.
    """

    def __init__(
        self, *, tenant: str = "", transport: Transport | None = None, **settings: object
    ) -> None:
        if transport is None:
            transport = _connect(settings)
        elif settings:
            raise TypeError("give either a transport or settings, not both")
        self._transport = transport
        self._tenant = tenant
        self._latest: tuple[Ids, float] = [], 0.0

    def submit(
        self,
        model: str,
        inputs: Any,
        *,
        priority: Priority | str = Priority.NORMAL,
        deadline: datetime | timedelta | float | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> JobId:
        """Queue one record; returns once the job table holds it.

        model: ``name`` (its stable version) or ``name@3``.
        inputs: a mapping of field name to value, or the bare value for a model with one
        input. Tensors may be numpy arrays, torch tensors or nested lists, without a batch
        dimension.
        priority: ``high``, ``normal`` or ``bulk``.
        deadline: when the result is of no more use: a UTC instant, or seconds from now. A job
        is never begun after it; one that runs then may still succeed, if it is quicker than
        the next sweep.
        idempotency_key: a second submit under the same key returns the first one's job.
        Without it, each call makes its own job, exactly one even where it had to be retried.

        Raises InvalidInput (nothing is stored), ModelNotFound, IdempotencyConflict,
        DatabaseUnavailable.
        """
        ids = self._submit(model, [inputs], False, priority, deadline, idempotency_key, metadata)
        self._latest = ids, time.monotonic()
        return ids[0]

    def submit_many(
        self,
        model: str,
        inputs: Any,
        *,
        priority: Priority | str = Priority.NORMAL,
        deadline: datetime | timedelta | float | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Ids:
        """Queue many records in one transaction: all or none. Returns their ids, in order.

        inputs: a sequence of records, each as for `submit`; or, faster, arrays with a leading
        record dimension: one array for a model with one input, else a mapping of field name
        to array. The other arguments hold for every job.
        """
        columns = isinstance(inputs, Mapping | np.ndarray) or hasattr(inputs, "detach")
        records = inputs if columns else list(inputs)
        if not columns and not records:
            return []
        return self._submit(model, records, columns, priority, deadline, idempotency_key, metadata)

    def get(self, job: JobId) -> Job:
        """The job as the table has it. Raises JobNotFound."""
        return self._transport.get([job])[0]

    def status(self, job: JobId | DatasetId) -> Status:
        """The state of a job or a dataset, and what it waits for or why it ended.

        Raises JobNotFound.
        """
        return self._transport.status(JobId(job))

    @overload
    def wait(  # type: ignore[overload-overlap]  # a str is one id, though a sequence of str too
        self, jobs: str, *, timeout: float | None = 60, progress: Progressed = False
    ) -> Job: ...
    @overload
    def wait(
        self, jobs: Sequence[JobId], *, timeout: float | None = 60, progress: Progressed = False
    ) -> Jobs: ...
    def wait(
        self,
        jobs: str | Sequence[JobId],
        *,
        timeout: float | None = 60,
        progress: Progressed = False,
    ) -> Job | Jobs:
        """Wait until the job, or every one of the jobs, has ended, well or not.

        timeout: seconds; None waits as long as it takes. Raises WaitTimeout, JobNotFound.
        """
        ids = [JobId(jobs)] if isinstance(jobs, str) else list(jobs)
        with _reporter(progress) as report:
            self._wait(ids, timeout, report, lambda ids, _: self._transport.ended(ids))
        ended = self._transport.get(ids)
        return ended[0] if isinstance(jobs, str) else ended

    def result(self, job: JobId, *, timeout: float | None = 60) -> Result:
        """Wait for the job and return its outputs by name.

        Raises JobFailed, JobCancelled or JobExpired, with the job's code and message;
        WaitTimeout; JobNotFound.
        """
        found: list[Result] = []

        def take(ids: Sequence[JobId], heard: Heard) -> Container[JobId]:
            """The result is its own answer to whether the job has ended."""
            with suppress(JobUnfinished):
                found.extend(heard.values() or self._transport.results(ids))
                return ids
            return ()

        self._wait([job], timeout, _silent, take)
        return _writable(found[0])

    def results(self, jobs: Sequence[JobId], *, timeout: float | None = 60) -> Results:
        """Likewise for many jobs, in order; the first that has no result raises."""
        ids = list(jobs)
        self._wait(ids, timeout, _silent, lambda ids, _: self._transport.ended(ids))
        return [_writable(result) for result in self._transport.results(ids)] if ids else []

    def cancel(self, jobs: str | Sequence[JobId]) -> Ids:
        """Cancel jobs that have not ended; returns those that this call cancelled.

        What is in the batch that runs just now is computed to its end, and thrown away.
        """
        return self._transport.cancel([JobId(jobs)] if isinstance(jobs, str) else list(jobs))

    def replay(
        self,
        jobs: str | Sequence[JobId],
        *,
        deadline: datetime | timedelta | float | None = None,
    ) -> Ids:
        """Queue failed, cancelled or expired jobs again; returns those that this call queued.

        Each keeps its id and inputs, starts with a clean record, and queues up as a new job
        does. Its old deadline is dropped. deadline: a new one, as for `submit`. A job that
        workers died with still runs alone.
        """
        ids = [JobId(jobs)] if isinstance(jobs, str) else [*jobs]
        return self._transport.replay(ids, seconds_of(deadline))

    def delete(self, jobs: str | Sequence[JobId]) -> Ids:
        """Delete jobs that have ended, with their results and idempotency keys, all or none.

        Returns those that this call deleted; one that does not exist is left out. An object in
        the store goes with the last job that has its result there. Raises JobNotEnded.
        """
        return self._transport.delete([JobId(jobs)] if isinstance(jobs, str) else list(jobs))

    def list(
        self,
        *,
        model: str | None = None,
        state: JobState | str | Sequence[JobState | str] = (),
        code: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Jobs that match every filter, newest first, `limit` at a time.

        code: of their error. since, until: submission time. cursor: the previous page's.
        """
        states = (state,) if isinstance(state, str) else tuple(state)
        if limit < 1:
            raise InvalidInput("limit", f"expected at least 1, got {limit}")
        try:
            wanted = tuple(JobState(name) for name in states)
        except ValueError:
            raise InvalidInput("state", f"expected one of {', '.join(JobState)}") from None
        return self._transport.page(
            Filter(model, wanted, since, until, self._tenant, code), limit, cursor
        )

    def pause(
        self,
        model: str | None = None,
        *,
        pool: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> str:
        """Have no worker begin the jobs of `model`, or of `pool`, until `resume`.

        Submissions go on, and so does what a worker has claimed: a few batches at most, and of slow
        ones no more than two.
        model: ``digits`` (every version) or ``digits@3``. reason, by: for whoever asks why a
        job waits; `by` is this user and host unless given. Returns the name of what is paused.
        Raises ModelNotFound, InvalidInput.
        """
        return self._transport.pause(model, pool, by=by or _whoami(), reason=reason)

    def resume(self, model: str | None = None, *, pool: str | None = None) -> bool:
        """Undo a `pause` of the same name; False where there was none."""
        return self._transport.resume(model, pool)

    def pauses(self) -> Pauses:
        """What is paused, oldest first."""
        return self._transport.pauses()

    @property
    def schedules(self) -> ScheduleCalls:
        """Datasets that run once per date."""
        return ScheduleCalls(self._transport.schedules, self._tenant, _whoami)

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(
        self,
        model: str,
        inputs: Any,
        columns: bool,
        priority: Priority | str,
        deadline: datetime | timedelta | float | None,
        idempotency_key: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Ids:
        return self._transport.submit(
            Submission(
                model=model,
                inputs=inputs,
                columns=columns,
                priority=priority_of(priority),
                deadline=seconds_of(deadline),
                idempotency_key=idempotency_key,
                metadata=metadata,
                tenant=self._tenant,
            )
        )

    def _wait(
        self,
        ids: Sequence[JobId],
        timeout: float | None,
        report: Callable[[int, int], None],
        ended_of: Callable[[Sequence[JobId], Heard], Container[JobId]],
    ) -> None:
        pending = list(dict.fromkeys(ids))
        total = len(pending)
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_POLL
        known = False
        heard: Heard = {}
        latest, since = self._latest
        # A job that was submitted just now is waited for before it is asked for.
        young = pending == latest and time.monotonic() < since + _FIRST_POLL
        while pending:
            asked_at = time.monotonic()
            ended = () if young else ended_of(pending, heard)
            young = False
            now = time.monotonic()
            pending = [id for id in pending if id not in ended]
            report(total - len(pending), total)
            if not pending:
                return
            late = end is not None and now >= end
            if not known and (late or pause > _QUESTIONABLE):
                self._transport.get(pending)  # an id that does not exist would never end
                known = True
            if late:
                raise WaitTimeout(len(pending), total, pending[0], timeout or 0)
            wait = max(pause, _IDLE_PER_ASK * (now - asked_at - _QUICK_ASK))
            heard = self._transport.listen(pending, wait if end is None else min(wait, end - now))
            pause = min(pause * _POLL_GROWTH, _LAST_POLL)


def _connect(settings: Mapping[str, object]) -> Transport:
    try:
        from headrace import direct
    except ImportError as error:
        from headrace.errors import NotInstalled

        raise NotInstalled("the direct transport", "server") from error
    return direct.connect(**settings)


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _writable(result: Result) -> Result:
    """Arrays of the caller's own, not views on what came over the wire."""
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in result.items()}


@contextmanager
def _reporter(progress: Progressed) -> Iterator[Callable[[int, int], None]]:
    if not progress:
        yield _silent
        return
    if callable(progress):
        yield progress
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("jobs"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TaskProgressColumn(show_speed=True),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("jobs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _silent(done: int, total: int) -> None:
    """Report to nobody."""
