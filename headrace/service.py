"""The one write path: everything a producer can ask for, over database, store and broker.

The gateway and the direct transport both call it, so both validate alike and promise alike.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import uuid_utils

from headrace import payload
from headrace.broker import Bell
from headrace.dataset import Dataset, DatasetId
from headrace.dataset_runs import DatasetRuns
from headrace.dataset_service import DatasetService
from headrace.db import deletion, jobs, models, packs, pauses, views, workers
from headrace.db.engine import Database, retrying
from headrace.db.units import NewPack, WrittenPack
from headrace.errors import (
    DatabaseUnavailable,
    DatasetNotFound,
    IdempotencyConflict,
    InvalidInput,
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobNotEnded,
    JobNotFound,
    JobUnfinished,
    StorageError,
    Unavailable,
)
from headrace.job import Job, JobId, JobState, ModelKey, PackId, Pause, Priority
from headrace.knocks import Knocks
from headrace.news import News
from headrace.registry.versions import parse_ref
from headrace.rings import ring_due
from headrace.scheduling import Scheduling
from headrace.settings import Settings
from headrace.storage import ObjectStore
from headrace.storage.digests import sha256
from headrace.storage.packs import build_pack, read_pack
from headrace.submission import Key, deadline_of, new_jobs
from headrace.transport import Filter, Page, Result, Status, Submission

_LONGEST_REASON = 1000
_MANY = 10_000
"""Waiting jobs up to which a status counts them: some milliseconds."""
_REPLAYS = 1000
"""Jobs that one transaction queues again: some tens of milliseconds of locks."""
_T = TypeVar("_T")


class Service(DatasetService):
    """Implements `headrace.transport.Transport`. Owns what it is given; thread-safe."""

    def __init__(
        self, database: Database, store: ObjectStore, bell: Bell, settings: Settings
    ) -> None:
        super().__init__(database, store, bell, settings)
        self._news = News(database)
        self._knocks = Knocks()
        self.schedules = Scheduling(database, DatasetRuns(self).check)

    def submit(self, submission: Submission) -> list[JobId]:
        """Queue the jobs, all or none, and ring for them."""
        version = self._catalog.find(submission.model)
        rows, keys = new_jobs(version, submission, self.settings.max_input)
        rows, inputs = self._store_large(submission.tenant, rows)
        try:
            # The rows carry their ids: a second run changes nothing twice.
            ids = retrying(lambda: self._insert(submission.tenant, rows, keys, inputs))
        except DatabaseUnavailable:
            # Whether the commit went through is not known, and a job must find its input.
            raise
        except Exception:
            self._drop(inputs)
            raise
        if ids[0] != rows[0].id:
            self._drop(inputs)  # an earlier call under the same key made the jobs
        batch = version.manifest.batching.max_records
        self._bell.ring(version.key, version.manifest.pool, submission.priority, ids, batch)
        return ids

    def get(self, ids: Sequence[JobId]) -> list[Job]:
        """The jobs, in order."""
        found = self.database.ask(lambda connection: views.fetch(connection, ids))
        return [self._with_uri(_of(found, id)) for id in ids]

    def status(self, id: JobId) -> Status:
        """Where the job stands, or the dataset of this id, and what it waits for."""
        try:
            job = self.get([id])[0]
        except JobNotFound as unknown:
            try:
                dataset = self.dataset(DatasetId(id))
            except DatasetNotFound:
                raise unknown from None
            return Status(dataset.state, self._detail_of_dataset(dataset))
        return Status(job.state, self._detail(job))

    def ended(self, ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Those of `ids` that are terminal: one question, however many they are."""
        return self.database.ask(lambda connection: views.ended(connection, ids))

    def listen(self, ids: Sequence[JobId], seconds: float) -> Mapping[JobId, Result]:
        """Let `seconds` pass, or less where one of a few `ids` is heard to have ended."""
        heard = self._news.wait(ids, seconds)
        return {id: payload.decode(result) for id, result in heard.items()}

    def results(self, ids: Sequence[JobId]) -> Iterator[Result]:
        """The jobs' outputs, in order; neighbours in one pack are read together."""
        found = self.database.ask(lambda connection: views.results(connection, ids))
        stored = [_of(found, id) for id in ids]
        for result in stored:
            _check_succeeded(result)
        for _, group in itertools.groupby(stored, key=lambda r: None if r.inline else r.key):
            yield from self._decode(list(group))

    def cancel(self, ids: Sequence[JobId]) -> list[JobId]:
        """Cancel what has not ended."""
        with self.database.write() as connection:
            return jobs.cancel(connection, ids)

    def replay(self, ids: Sequence[JobId], deadline: datetime | float | None = None) -> list[JobId]:
        """Queue what ended without a result again, and ring for it; some at a time."""
        at, seconds = deadline_of(deadline)
        replayed: list[JobId] = []
        for start in range(0, len(ids), _REPLAYS):
            some = ids[start : start + _REPLAYS]
            with self.database.write() as connection:
                found = jobs.replay(connection, some, deadline=at, deadline_in=seconds)
            self._ring_again(found)
            replayed += [job.id for job in found]
        return replayed

    def delete(self, ids: Sequence[JobId]) -> list[JobId]:
        """Delete jobs that have ended, all or none; their results go with them."""
        with self.database.write() as connection:
            removed = deletion.remove(connection, ids)
            for job in views.fetch(connection, ids).values():
                raise JobNotEnded(job.id, job.state)
        return removed

    def page(self, filter: Filter, limit: int, cursor: str | None) -> Page:
        """Jobs that match, newest first."""
        name, version = parse_ref(filter.model) if filter.model else (None, None)
        found = self.database.ask(
            lambda connection: views.page(
                connection,
                tenant=filter.tenant,
                model=name,
                version=version,
                states=filter.states,
                code=filter.code,
                since=filter.since.timestamp() if filter.since else None,
                until=filter.until.timestamp() if filter.until else None,
                after=_cursor(cursor),
                limit=limit + 1,
            )
        )
        shown = [self._with_uri(job) for job in found[:limit]]
        return Page(shown, shown[-1].id if len(found) > limit else None)

    def pause(self, model: str | None, pool: str | None, *, by: str, reason: str) -> str:
        """Have nobody claim the jobs of a model, a version or a pool; returns what is paused."""
        what = self._pausable(model, pool)
        for field, text in (("by", by), ("reason", reason)):
            if len(text) > _LONGEST_REASON or "\0" in text:
                raise InvalidInput(field, f"expected text of at most {_LONGEST_REASON} characters")
        with self.database.write() as connection:
            pauses.pause(connection, what, by=by, reason=reason)
        return what

    def resume(self, model: str | None, pool: str | None) -> bool:
        """Undo that, and ring for what has become due meanwhile."""
        what = self._pausable(model, pool)
        with self.database.write() as connection:
            held = pauses.resume(connection, what)
        if held:
            with suppress(DatabaseUnavailable):
                ring_due(self.database, self._bell)
        return held

    def pauses(self) -> list[Pause]:
        """What is paused, oldest first."""
        return self.database.ask(pauses.every)

    def workers(self, pool: str | None = None) -> list[workers.WorkerInfo]:
        """The workers that hold a lease."""
        return self.database.ask(lambda connection: workers.alive(connection, pool))

    def close(self) -> None:
        """Close database and broker connections."""
        self._bell.close()
        self._news.close()
        self.database.close()

    def _ring_again(self, found: Sequence[jobs.Replayed]) -> None:
        lines: dict[tuple[ModelKey, str, Priority], list[JobId]] = {}
        for job in found:
            line = ModelKey(job.model, job.version), job.pool, Priority(job.priority)
            lines.setdefault(line, []).append(job.id)
        for (model, pool, priority), ids in lines.items():
            batch = self._catalog.get(model).manifest.batching.max_records
            self._bell.ring(model, pool, priority, ids, batch)

    def _store_large(
        self, tenant: str, rows: list[jobs.NewJob]
    ) -> tuple[list[jobs.NewJob], WrittenPack | None]:
        """Move inputs too large for the table into one object, before there is a job."""
        limit = self.settings.inline_input
        large = [
            (row.id, row.input) for row in rows if row.input is not None and len(row.input) > limit
        ]
        if not large:
            return rows, None
        data, places = build_pack(large)
        id = PackId(str(uuid_utils.uuid7()))
        pack = NewPack(id, tenant, _input_key(id), len(large))
        retrying(lambda: self._announce(pack))
        self.store.put(pack.key, data)
        at = {id: (pack.key, *place) for (id, _), place in zip(large, places, strict=True)}
        rows = [
            replace(row, input=None, input_at=at[row.id], input_pack=pack.id)
            if row.id in at
            else row
            for row in rows
        ]
        return rows, WrittenPack(pack.id, len(data), sha256(data))

    def _announce(self, pack: NewPack) -> None:
        with self.database.single() as connection:
            packs.announce(connection, pack)

    def _drop(self, inputs: WrittenPack | None) -> None:
        """No job will point at these inputs. What fails here the sweeper will do."""
        if inputs is not None:
            with suppress(Unavailable, StorageError):
                with self.database.single() as connection:
                    packs.give_up(connection, [inputs.id])
                self.store.delete([_input_key(inputs.id)])

    def _insert(
        self,
        tenant: str,
        rows: Sequence[jobs.NewJob],
        keys: Sequence[Key],
        inputs: WrittenPack | None,
    ) -> list[JobId]:
        if not keys and not inputs:
            with self.database.single() as connection:
                jobs.insert(connection, rows)
                self._knocks.knock(connection, rows[0].pool, len(rows))
            return [row.id for row in rows]
        with self.database.write() as connection:
            held = jobs.take_keys(connection, tenant, keys)
            for key, digest, _ in keys:
                if held[key][0] != digest:
                    raise IdempotencyConflict(key, held[key][1])
            ids = [held[key][1] for key, _, _ in keys] or [row.id for row in rows]
            new = [row for row, id in zip(rows, ids, strict=True) if row.id == id]
            if new and inputs:
                packs.publish(connection, inputs, sum(row.input_pack is not None for row in new))
            if new:
                jobs.insert(connection, new)
        return ids

    def _decode(self, group: Sequence[views.StoredResult]) -> Iterator[Result]:
        key = group[0].key
        if all(result.inline is not None for result in group) or key is None:
            for result in group:
                assert result.inline is not None, "a succeeded job has its result in a pack or row"
                yield payload.decode(result.inline)
            return
        stored = read_pack(self.store, key, [(r.id, r.offset, r.length) for r in group])
        for result, data in zip(group, stored, strict=True):
            try:
                yield payload.decode(data)
            except ValueError as error:
                raise StorageError(key, f"the result of job {result.id}: {error}") from error

    def _detail(self, job: Job) -> str:
        if job.error is not None:
            return f"{job.error.code}: {job.error.message}"
        if job.state.terminal:
            return f"after {job.attempt} attempt{'s' * (job.attempt != 1)}"
        if job.state is JobState.RUNNING:
            return f"attempt {job.attempt} is with a worker"
        holding = self.database.ask(lambda connection: pauses.of(connection, job))
        serving = self.workers(job.pool)
        due, _ = self.database.ask(lambda connection: views.backlog(connection, job.pool, _MANY))
        alone, seconds = self.database.ask(lambda connection: views.held_up(connection, job.id))
        if holding:
            return "; ".join(map(str, holding))
        if not serving:
            return f"waits for a worker: none serves pool {job.pool!r}"
        if seconds:
            return f"due again in {seconds:.1f} s"
        many = f"{_MANY} or more" if due == _MANY else due
        line = f"one of {many} jobs due in pool {job.pool!r}, served by {len(serving)} workers"
        if alone:
            return f"waits to run alone, for a worker died with it on the device; {line}"
        return line

    def _detail_of_dataset(self, dataset: Dataset) -> str:
        if dataset.error is not None:
            return f"{dataset.error.code}: {dataset.error.message}; {dataset.summary}"
        if not dataset.state.ended:
            holding = self.database.ask(lambda connection: pauses.of(connection, dataset))
            if holding:
                return "; ".join(map(str, holding))
            if not self.workers(dataset.pool):
                return f"waits for a worker: none serves pool {dataset.pool!r}; {dataset.summary}"
        return dataset.summary

    def _pausable(self, model: str | None, pool: str | None) -> str:
        """The one that is given, by the name that `headrace.db.pauses` knows it by.

        One that does not exist is refused: a pause that holds up nothing helps nobody.
        """
        if model is not None and pool is None:
            key = self._catalog.find(model).key
            return str(key) if "@" in model else key.name
        if pool is None or model is not None:
            raise InvalidInput("model", "expected either a model or a pool")
        known = self.database.ask(models.pools)
        if pool not in known:
            raise InvalidInput("pool", f"no model names {pool!r}; there is {', '.join(known)}")
        return f"pool:{pool}"

    def _with_uri(self, job: Job) -> Job:
        if job.result_uri is None:
            return job
        return replace(job, result_uri=f"{self.store.url}/{job.result_uri}")


def _input_key(pack: PackId) -> str:
    return f"inputs/{pack}"


def _cursor(cursor: str | None) -> JobId | None:
    """A page's cursor is the id of its last job."""
    try:
        return None if cursor is None else JobId(str(uuid.UUID(cursor)))
    except ValueError:
        raise InvalidInput("cursor", f"not one that a page gave: {cursor!r}") from None


def _check_succeeded(result: views.StoredResult) -> None:
    if result.state is JobState.SUCCEEDED:
        return
    code = result.error.code if result.error else str(result.state)
    message = result.error.message if result.error else f"the job is {result.state}"
    kind: dict[JobState, type[JobError]] = {
        JobState.FAILED: JobFailed,
        JobState.CANCELLED: JobCancelled,
        JobState.EXPIRED: JobExpired,
    }
    raise kind.get(result.state, JobUnfinished)(result.id, code, message)


def _of(found: Mapping[JobId, _T], id: JobId) -> _T:
    try:
        return found[id]
    except KeyError:
        raise JobNotFound(id) from None
