"""Two workers, a producer and bad luck in any order: the table does what job.py says."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headrace.db import views
from headrace.db.engine import Database
from headrace.db.tables import packs
from headrace.db.units import Again, Unit
from headrace.errors import LeaseLost
from headrace.job import TRANSITIONS, JobId, JobState, ModelKey, Priority, Step, WorkerId, apply
from tests.conformance.job_table import (
    QUARANTINE_AFTER,
    JobTable,
    again,
    failure,
    new_id,
    new_pack,
    success,
)

BATCH = 2
OUTCOMES = [Step.SUCCEED, Step.FAIL, Step.RETRY, Step.GIVE_BACK]


@dataclass
class Expected:
    """A job, as job.py alone would have it."""

    state: JobState = JobState.QUEUED
    attempt: int = 0
    deaths: int = 0
    suspect: bool = False
    holder: WorkerId | None = None
    result: str | None = None
    deleted: bool = False

    def take(self, step: Step) -> None:
        self.state = apply(self.state, step)
        self.attempt += TRANSITIONS[step].attempts
        if self.state is JobState.QUEUED:
            self.holder = None


class Machine(RuleBasedStateMachine):
    """Every example has a pool and a model of its own, so they share one database."""

    table: JobTable
    ids = Bundle("ids")
    units = Bundle("units")

    @initialize(target=ids)
    def start(self) -> object:
        self.pool = new_id()
        self.model: ModelKey = self.table.model(new_id(), max_records=BATCH)
        self.jobs: dict[JobId, Expected] = {}
        self.claimed: list[tuple[WorkerId, Unit]] = []
        self.workers = [self.table.worker(self.pool) for _ in range(2)]
        self.on_device: dict[WorkerId, set[JobId]] = {worker: set() for worker in self.workers}
        # hypothesis leaves some rules out of each example; jobs there must always be.
        return self.submit(3, Priority.NORMAL)

    # Few jobs, so that each sees much.
    @precondition(lambda self: sum(not job.state.terminal for job in self.jobs.values()) < 4)
    @rule(target=ids, count=st.integers(1, 3), priority=st.sampled_from(Priority))
    def submit(self, count: int, priority: Priority) -> object:
        new = self.table.queue(count, self.model, pool=self.pool, priority=priority)
        self.jobs |= {id: Expected() for id in new}
        return multiple(*new)

    @rule(target=units, which=st.integers(0, 1))
    def claim(self, which: int) -> object:
        worker = self.workers[which]
        claimed = self.table.claim(worker, self.pool)
        queued = [job for job in self.jobs.values() if job.state is JobState.QUEUED]
        assert bool(claimed) == bool(queued)
        if len(claimed) > 1 or not any(job.suspect for job in queued):
            assert len(claimed) == min(BATCH, sum(not job.suspect for job in queued))
        for unit in claimed:
            assert unit.suspect == self.jobs[unit.id].suspect
            assert len(claimed) == 1 or not unit.suspect, "a suspect has mates"
            self.jobs[unit.id].take(Step.CLAIM)
            self.jobs[unit.id].holder = worker
            assert unit.attempt == self.jobs[unit.id].attempt
        self.claimed += [(worker, unit) for unit in claimed]
        return multiple(*((worker, unit) for unit in claimed))

    @rule(which=st.integers(0, 1), step=st.sampled_from([Step.RETRY, Step.GIVE_BACK]))
    def return_all(self, which: int, step: Step) -> None:
        """Makes units stale: soon they are an earlier attempt's, or another worker's."""
        worker = self.workers[which]
        held = {
            id: job
            for id, job in self.jobs.items()
            if job.state is JobState.RUNNING and job.holder == worker
        }
        outcomes = [Again(id, job.attempt, 0.0, step is Step.RETRY) for id, job in held.items()]
        assert self.table.give_back(worker, outcomes) == len(held)
        for job in held.values():
            job.take(step)

    @rule(held=units)
    def stage(self, held: tuple[WorkerId, Unit]) -> None:
        worker, unit = held
        if worker not in self.workers:
            with pytest.raises(LeaseLost):
                self.table.stage(worker, [unit.id])
            return
        job = self.jobs[unit.id]
        ours = job.state is JobState.RUNNING and job.holder == worker
        assert self.table.stage(worker, [unit.id]) == ({unit.id} if ours else set())
        self.on_device[worker] = {unit.id}

    @rule(held=units, step=st.sampled_from(OUTCOMES))
    def finish(self, held: tuple[WorkerId, Unit], step: Step) -> None:
        self._finish(*held, step)

    @precondition(lambda self: self._stale())
    @rule(pick=st.integers(0), step=st.sampled_from(OUTCOMES))
    def finish_late(self, pick: int, step: Step) -> None:
        stale = self._stale()
        self._finish(*stale[pick % len(stale)], step)

    def _stale(self) -> list[tuple[WorkerId, Unit]]:
        """What a worker that is alive claimed once, and what runs as another's or again now."""
        return [
            (worker, unit)
            for worker, unit in self.claimed
            if (job := self.jobs[unit.id]).state is JobState.RUNNING
            and worker in self.workers
            and (job.holder, job.attempt) != (worker, unit.attempt)
        ]

    def _finish(self, worker: WorkerId, unit: Unit, step: Step) -> None:
        pack = new_pack()
        outcome = {
            Step.SUCCEED: success(unit, pack),
            Step.FAIL: failure(unit),
            Step.RETRY: again(unit, counted=True),
            Step.GIVE_BACK: again(unit, counted=False),
        }[step]
        written = [pack.id] if step is Step.SUCCEED else []
        if worker not in self.workers:
            with pytest.raises(LeaseLost):
                self.table.finish(worker, [outcome], written)
            return
        self.table.stage(worker, [unit.id], pack)
        settled = self.table.finish(worker, [outcome], written)
        self.on_device[worker] = set()
        job = self.jobs[unit.id]
        ours = (job.state, job.holder, job.attempt) == (JobState.RUNNING, worker, unit.attempt)
        assert settled == ours
        if ours:
            job.take(step)
            if step is Step.SUCCEED:
                assert job.result is None, "two results for one job"
                job.result = pack.key

    @rule(id=ids)
    def cancel(self, id: JobId) -> None:
        job = self.jobs[id]
        assert self.table.cancel(id) == ([] if job.state.terminal else [id])
        if not job.state.terminal:
            job.take(Step.CANCEL)

    @rule(id=ids)
    def replay(self, id: JobId) -> None:
        job = self.jobs[id]
        ended = job.state in TRANSITIONS[Step.REPLAY].sources and not job.deleted
        assert self.table.replay(id) == ([id] if ended else [])
        if ended:
            at_work = job.holder is not None and job.state is not JobState.FAILED
            job.take(Step.REPLAY)
            job.attempt, job.deaths = job.attempt if at_work else 0, 0

    @rule(id=consumes(ids))
    def expire(self, id: JobId) -> None:
        self.table.deadline_in(id, -1)
        self.table.sweep()
        if not self.jobs[id].state.terminal:
            self.jobs[id].take(Step.EXPIRE)

    @rule(id=ids)
    def delete(self, id: JobId) -> None:
        job = self.jobs[id]
        may_go = job.state.terminal and not job.deleted
        assert self.table.delete(id) == ([id] if may_go else [])
        job.deleted |= may_go

    @rule(which=st.integers(0, 1), named=st.sampled_from(["nobody", "one", "all", "by the table"]))
    def lose(self, which: int, named: str) -> None:
        """The worker dies; its supervisor names the suspects, or it is gone too."""
        worker = self.workers[which]
        held = [
            id
            for id, job in self.jobs.items()
            if job.state is JobState.RUNNING and job.holder == worker
        ]
        suspects = {"nobody": [], "one": held[:1], "all": held}.get(named)
        if suspects is not None:
            self.table.retire(worker, *suspects)
        else:
            suspects = list(self.on_device[worker])
            self.table.lease_in(worker, -1)
            self.table.sweep()
        for id in held:
            job = self.jobs[id]
            if id not in suspects:
                job.take(Step.GIVE_BACK)
                continue
            job.suspect = True
            job.deaths += len(suspects) == 1
            job.take(Step.FAIL if job.deaths == QUARANTINE_AFTER else Step.LOSE)
        self.workers[which] = new = self.table.worker(self.pool)
        self.on_device[new] = set()

    @invariant()
    def the_table_agrees(self) -> None:
        if not getattr(self, "jobs", None):
            return
        with self.table.database.read() as connection:
            found = views.fetch(connection, list(self.jobs))
        assert found.keys() == {id for id, job in self.jobs.items() if not job.deleted}
        for id, row in found.items():
            job = self.jobs[id]
            assert (row.state, row.attempt) == (job.state, job.attempt)
            assert row.deaths == job.deaths
            assert row.result_uri == job.result
            assert (row.finished_at is not None) == row.state.terminal
            assert (row.started_at is not None) >= (row.state is JobState.RUNNING)

    @invariant()
    def a_pack_lives_while_jobs_point_at_it(self) -> None:
        if not getattr(self, "jobs", None):
            return
        pointing = {job.result: not job.deleted for job in self.jobs.values() if job.result}
        with self.table.database.read() as connection:
            rows = connection.execute(
                sa.select(packs.c.key, packs.c.jobs, packs.c.state).where(packs.c.key.in_(pointing))
            ).all()
        live = {row.key: row.jobs for row in rows if row.state == "live"}
        assert live == {key: 1 for key, points in pointing.items() if points}


def test_the_table_does_what_job_py_says(database: Database) -> None:
    machine = type("Machine", (Machine,), {"table": JobTable(database)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
