"""Short words for what the suites of the job table do to it, each in a transaction of its own.

Time passes by moving rows: no test waits for a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import sqlalchemy as sa
import uuid_utils

from headrace.db import deletion, jobs, models, views, work, workers
from headrace.db.engine import Database
from headrace.db.jobs import NewJob
from headrace.db.tables import jobs as jobs_table
from headrace.db.tables import now, packs, sweeps
from headrace.db.tables import workers as workers_table
from headrace.db.units import Again, Failure, NewPack, Success, Unit, WrittenPack
from headrace.job import Job, JobId, ModelKey, PackId, Priority, WorkerId
from headrace.settings import Settings
from headrace.sweeper import Sweeper

M1 = ModelKey("m", 1)
LEASE = 60.0
QUARANTINE_AFTER = 3


def new_id() -> str:
    return str(uuid_utils.uuid7())


def new_job(model: ModelKey = M1, **what: object) -> NewJob:
    row = NewJob(JobId(new_id()), "", "default", model, Priority.NORMAL, b"input")
    return replace(row, **what)


class NoStore:
    """For what is not about objects: notes which are deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.tidied: list[tuple[float, int]] = []
        self.abandoned = 0

    def delete(self, keys: Iterable[str]) -> None:
        self.deleted += keys

    def tidy(self, age: float, limit: int) -> int:
        self.tidied.append((age, limit))
        ended = min(limit, self.abandoned)
        self.abandoned -= ended
        return ended


class JobTable:
    """A job table, a producer and a worker."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.settings = Settings(lease=LEASE, quarantine_after=QUARANTINE_AFTER)
        self.sweeper = Sweeper(database, NoStore(), self.settings)

    def model(self, name: str, max_records: int = 64, pool: str = "default") -> ModelKey:
        """A new version of the model, of which only this much matters here."""
        with self.database.write() as connection:
            version = models.add(
                connection,
                name=name,
                digest=new_id(),
                pool=pool,
                max_records=max_records,
                manifest="{}",
                files="{}",
                code="{}",
            )
        return ModelKey(name, version)

    def insert(self, *rows: NewJob) -> list[JobId]:
        with self.database.write() as connection:
            jobs.insert(connection, rows)
        return [row.id for row in rows]

    def queue(self, count: int = 1, model: ModelKey = M1, **what: object) -> list[JobId]:
        return self.insert(*(new_job(model, **what) for _ in range(count)))

    def worker(self, pool: str = "default", lease: float = 60) -> WorkerId:
        worker = WorkerId(new_id())
        with self.database.write() as connection:
            workers.register(
                connection, worker, pool=pool, device="cpu", host="here", pid=1, lease=lease
            )
        return worker

    def claim(
        self,
        worker: WorkerId,
        pool: str = "default",
        excluding: Sequence[ModelKey] = (),
        at_once: NewPack | None = None,
        several: tuple[ModelKey, int] | None = None,
    ) -> list[Unit]:
        with self.database.write() as connection:
            return work.claim(
                connection,
                worker,
                pool,
                excluding=excluding,
                at_once=at_once,
                several=several,
            )

    def stage(
        self,
        worker: WorkerId,
        ids: Sequence[JobId],
        pack: NewPack | None = None,
        on_device: Sequence[JobId] | None = None,
    ) -> set[JobId]:
        packs = [pack or new_pack(len(ids))]
        with self.database.write() as connection:
            return set(ids) - work.stage(connection, worker, ids, on_device or ids, packs)

    def finish(
        self,
        worker: WorkerId,
        outcomes: Sequence[Success | Failure | Again],
        written: Sequence[PackId] = (),
        unused: Sequence[PackId] = (),
    ) -> int:
        done = [WrittenPack(id, 10, "sha") for id in written]
        with self.database.write() as connection:
            return work.finish(connection, worker, [], done, unused, outcomes)

    def give_back(self, worker: WorkerId, units: Sequence[Again]) -> int:
        with self.database.write() as connection:
            return work.settle(connection, worker, units)

    def run(self, worker: WorkerId, units: Sequence[Unit]) -> PackId:
        """Stage and finish the units, all with success."""
        pack = new_pack(len(units))
        self.stage(worker, [unit.id for unit in units], pack)
        self.finish(worker, [success(unit, pack) for unit in units], [pack.id])
        return pack.id

    def cancel(self, *ids: JobId) -> list[JobId]:
        with self.database.write() as connection:
            return jobs.cancel(connection, ids)

    def replay(self, *ids: JobId) -> list[JobId]:
        with self.database.write() as connection:
            return [job.id for job in jobs.replay(connection, ids)]

    def delete(self, *ids: JobId) -> list[JobId]:
        with self.database.write() as connection:
            return deletion.remove(connection, ids)

    def retire(self, worker: WorkerId, *suspects: JobId) -> workers.Swept:
        with self.database.write() as connection:
            return workers.retire(
                connection,
                worker,
                suspects=suspects,
                why="was killed by SIGSEGV",
                quarantine_after=QUARANTINE_AFTER,
            )

    def sweep(self) -> workers.Swept | None:
        """A sweep that is due, after others that came in time."""
        self.swept_ago(LEASE / 3)
        return self.sweeper.sweep()

    def renew(self, worker: WorkerId, lease: float = 60) -> bool:
        with self.database.write() as connection:
            return workers.renew(connection, worker, lease)

    def get(self, id: JobId) -> Job:
        with self.database.read() as connection:
            return views.fetch(connection, [id])[id]

    def states(self, ids: Sequence[JobId]) -> list[str]:
        with self.database.read() as connection:
            found = views.fetch(connection, ids)
        return [str(found[id].state) for id in ids]

    def attempts(self, ids: Sequence[JobId]) -> list[int]:
        with self.database.read() as connection:
            found = views.fetch(connection, ids)
        return [found[id].attempt for id in ids]

    def records(self, ids: Sequence[JobId]) -> list[tuple[int, int]]:
        """What the jobs have against them: (attempt, deaths)."""
        with self.database.read() as connection:
            found = views.fetch(connection, ids)
        return [(found[id].attempt, found[id].deaths) for id in ids]

    def pack_states(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(packs.c.state).order_by(packs.c.id)).scalars())

    # Time passes.

    def seconds_until_due(self, id: JobId) -> float:
        with self.database.read() as connection:
            due = sa.select(jobs_table.c.due_at - now()).where(jobs_table.c.id == id)
            return float(connection.execute(due).scalar_one())

    def due_in(self, id: JobId, seconds: float) -> None:
        self._set(jobs_table, id, due_at=now() + seconds)

    def deadline_in(self, id: JobId, seconds: float) -> None:
        self._set(jobs_table, id, deadline=now() + seconds)

    def started_in(self, id: JobId, seconds: float) -> None:
        self._set(jobs_table, id, started_at=now() + seconds)

    def finished_in(self, id: JobId, seconds: float) -> None:
        self._set(jobs_table, id, finished_at=now() + seconds)

    def lease_in(self, worker: WorkerId, seconds: float) -> None:
        self._set(workers_table, worker, lease_until=now() + seconds)

    def swept_ago(self, seconds: float, *, since: float = 1e6) -> None:
        """The last sweep was so long ago, and the last gap in them `since` seconds."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(sweeps).values(swept_at=now() - seconds, resumed_at=now() - since)
            )

    def sweep_pack(self, pack: PackId) -> None:
        """As the sweeper does with what a worker left half-written for too long."""
        self._set(packs, pack, state="deleted")

    def _set(self, table: sa.Table, id: str, **values: object) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(table.c.id == id).values(**values))


def new_pack(size: int = 1, tenant: str = "") -> NewPack:
    id = PackId(new_id())
    return NewPack(id, tenant, f"results/{id}", size)


def success(unit: Unit, pack: NewPack, inline: bytes | None = b"result") -> Success:
    return Success(unit.id, unit.attempt, pack.id, 0, 6, inline)


def failure(unit: Unit) -> Failure:
    return Failure(unit.id, unit.attempt, "model_error", "no good")


def again(unit: Unit, *, counted: bool, delay: float = 0) -> Again:
    return Again(unit.id, unit.attempt, delay, counted)
