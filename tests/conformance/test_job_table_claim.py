"""Claims: one batch, the most urgent first, and never one job twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from headrace.db import pauses, work
from headrace.db.engine import Database
from headrace.errors import LeaseLapsed, LeaseLost
from headrace.job import JobId, Priority, WorkerId
from tests.conformance.job_table import (
    JobTable,
    again,
    failure,
    new_id,
    new_job,
    new_pack,
    success,
)


def claimed(table: JobTable, worker: WorkerId, **what: object) -> list[JobId]:
    return sorted(unit.id for unit in table.claim(worker, **what))


class TestWhatIsClaimed:
    def test_a_unit_is_what_the_worker_needs_to_run_it(self, table: JobTable) -> None:
        inline, stored = table.insert(
            new_job(tenant="t", priority=Priority.BULK, input=b"bytes"),
            new_job(priority=Priority.BULK, input=None, input_at=("inputs/x", 5, 7)),
        )
        units = {unit.id: unit for unit in table.claim(table.worker())}
        assert (units[inline].tenant, units[inline].priority) == ("t", Priority.BULK)
        assert (units[inline].input, units[inline].input_at) == (b"bytes", None)
        assert (units[stored].input, units[stored].input_at) == (None, ("inputs/x", 5, 7))
        assert str(units[inline].model) == "m@1"
        assert units[inline].attempt == 1
        assert 0 <= units[inline].claimed_at - units[inline].created_at < 5

    def test_it_runs_from_then_on(self, table: JobTable) -> None:
        (id,) = table.queue()
        table.claim(table.worker())
        job = table.get(id)
        assert (job.state, job.attempt) == ("running", 1)
        assert job.started_at is not None

    def test_at_most_the_models_batch(self, table: JobTable) -> None:
        three = table.model("three", max_records=3)
        ids = table.queue(7, three)
        worker = table.worker()
        batches = [claimed(table, worker) for _ in range(4)]
        assert batches == [ids[:3], ids[3:6], ids[6:], []]

    def test_several_batches_of_the_version_that_is_named(self, table: JobTable) -> None:
        quick, slow = table.model("quick", max_records=2), table.model("slow", max_records=2)
        worker = table.worker()
        table.queue(9, quick)
        table.queue(9, slow)
        table.queue(1, quick, priority=Priority.BULK)
        sizes = [len(table.claim(worker, several=(quick, 3))) for _ in range(4)]
        assert sizes == [6, 4, 2, 2], "all of the quick ones, then a batch of slow ones at a time"

    def test_a_suspect_by_itself(self, table: JobTable) -> None:
        quick = table.model("quick", max_records=2)
        died = table.worker()
        table.queue(2, quick)
        table.retire(died, *claimed(table, died))
        table.queue(4, quick)
        sizes = [len(table.claim(table.worker(), several=(quick, 3))) for _ in range(3)]
        assert sizes == [1, 1, 4]

    def test_one_model_version_at_a_time(self, table: JobTable) -> None:
        second, other = table.model("m"), table.model("other")
        a, b, c = table.queue(), table.queue(model=second), table.queue(model=other)
        a += table.queue()
        worker = table.worker()
        assert [claimed(table, worker) for _ in range(4)] == [a, b, c, []]

    def test_only_the_pools_jobs(self, table: JobTable) -> None:
        ids = table.queue(pool="gpu")
        assert table.claim(table.worker()) == []
        assert claimed(table, table.worker("gpu"), pool="gpu") == ids

    def test_no_version_that_the_worker_cannot_serve(self, table: JobTable) -> None:
        second, other = table.model("m"), table.model("other")
        a, b, c = (
            table.queue(priority=Priority.HIGH),
            table.queue(model=second),
            table.queue(model=other),
        )
        worker = table.worker()
        first = table.get(a[0]).model
        assert claimed(table, worker, excluding=[first, second]) == c
        assert claimed(table, worker, excluding=[first]) == b
        assert claimed(table, worker, excluding=[first]) == []
        assert claimed(table, worker) == a


class TestOrder:
    @pytest.fixture(autouse=True)
    def batches_of_one(self, table: JobTable) -> None:
        self.one = table.model("one", max_records=1)

    def order(self, table: JobTable) -> list[JobId]:
        worker = table.worker()
        order = []
        while units := table.claim(worker):
            order += [unit.id for unit in units]
        return order

    def test_by_priority_then_age(self, table: JobTable) -> None:
        bulk = table.queue(2, self.one, priority=Priority.BULK)
        normal = table.queue(2, self.one)
        high = table.queue(2, self.one, priority=Priority.HIGH)
        assert self.order(table) == [*high, *normal, *bulk]

    def test_what_comes_back_does_not_queue_up_again(self, table: JobTable) -> None:
        ids = table.queue(3, self.one)
        worker = table.worker()
        units = table.claim(worker)
        table.give_back(worker, [again(unit, counted=False) for unit in units])
        assert self.order(table) == ids

    def test_what_is_replayed_queues_up_as_what_is_new(self, table: JobTable) -> None:
        bad = table.queue(3, self.one)
        table.cancel(*bad)
        ids = table.queue(3, self.one)
        few = table.queue(1, self.one, tenant="few")
        assert table.replay(*bad) == bad
        assert self.order(table) in ([ids[0], *few, *ids[1:], *bad], [*few, *ids, *bad])

    def test_a_tenant_with_few_jobs_does_not_wait_for_one_with_many(self, table: JobTable) -> None:
        table.queue(8, self.one, tenant="many")
        few = table.queue(2, self.one, tenant="few")
        table.queue(8, self.one, tenant="many")
        assert set(few) <= set(self.order(table)[:5])

    def test_a_batch_takes_the_most_urgent_of_its_model(self, table: JobTable) -> None:
        two = table.model("two", max_records=2)
        table.queue(1, two, priority=Priority.BULK)
        normal = table.queue(1, two)
        high = table.queue(1, two, priority=Priority.HIGH)
        assert claimed(table, table.worker()) == sorted(high + normal)

    def test_what_is_not_due_yet_waits(self, table: JobTable) -> None:
        (id,) = table.queue(1, self.one)
        table.due_in(id, 60)
        assert self.order(table) == []
        table.due_in(id, 0)
        assert self.order(table) == [id]

    def test_what_is_past_its_deadline_is_left_to_the_sweep(self, table: JobTable) -> None:
        late, early = table.queue(2, self.one)
        table.deadline_in(late, -1)
        table.deadline_in(early, 60)
        assert self.order(table) == [early]


class TestTwoClaimers:
    def test_no_job_goes_to_two(self, table: JobTable) -> None:
        four = table.model("four", max_records=4)
        ids = table.queue(200, four)
        workers = [table.worker() for _ in range(4)]
        barrier = threading.Barrier(4)

        def run(worker: WorkerId) -> list[JobId]:
            """As a process of its own would: it shares no connection and no lock."""
            database = Database(table.database.engine.url.render_as_string(hide_password=False))
            elsewhere = JobTable(database)
            barrier.wait()
            mine: list[JobId] = []
            # A claim may find everything it wanted in another's hands; a few in a row means done.
            empty = 0
            while empty < 3:
                units = elsewhere.claim(worker)
                empty = 0 if units else empty + 1
                mine += [unit.id for unit in units]
            database.close()
            return mine

        with ThreadPoolExecutor(4) as threads:
            shares = list(threads.map(run, workers))
        assert sorted(id for share in shares for id in share) == ids
        assert table.attempts(ids) == [1] * 200

    @pytest.mark.parametrize("paused", [False, True])
    def test_suspects_in_other_hands_or_paused_hide_no_work(
        self, table: JobTable, paused: bool
    ) -> None:
        suspects, more = table.queue(2), table.queue(1, table.model("other"))
        dead = table.worker()
        table.claim(dead)
        table.retire(dead, *suspects)
        if paused:
            with table.database.write() as connection:
                pauses.pause(connection, "m", by="me", reason="")
            assert claimed(table, table.worker()) == more
            return
        if table.database.engine.dialect.name == "sqlite":
            pytest.skip("has one writer at a time")
        with table.database.write() as connection:
            worker = table.worker()
            for suspect in suspects:
                assert [u.id for u in work.claim(connection, worker, "default")] == [suspect]
            assert claimed(table, table.worker()) == more

    def test_a_claim_that_rolls_back_claims_nothing(self, table: JobTable) -> None:
        ids = table.queue(3)
        worker = table.worker()
        with suppress(KeyError), table.database.write() as connection:
            assert len(work.claim(connection, worker, "default")) == 3
            raise KeyError
        assert table.attempts(ids) == [0] * 3
        assert claimed(table, worker) == ids


class TestWithoutALease:
    def test_nothing_is_claimed(self, table: JobTable) -> None:
        ids = table.queue()
        expired, stopped = table.worker(), table.worker()
        table.lease_in(expired, -1)
        table.retire(stopped)
        for worker, error in (
            (expired, LeaseLapsed),
            (stopped, LeaseLost),
            (WorkerId(new_id()), LeaseLost),
        ):
            with pytest.raises(error, match=worker):
                table.claim(worker)
        assert table.states(ids) == ["queued"]


class TestGivingBack:
    def test_undoes_the_attempt(self, table: JobTable) -> None:
        ids = table.queue(2)
        worker = table.worker()
        units = table.claim(worker)
        assert table.give_back(worker, [again(unit, counted=False) for unit in units]) == 2
        assert table.states(ids) == ["queued"] * 2
        assert table.attempts(ids) == [0] * 2
        assert claimed(table, table.worker()) == ids

    def test_with_a_delay_is_due_later(self, table: JobTable) -> None:
        (id,) = table.queue()
        worker = table.worker()
        table.give_back(worker, [again(u, counted=False, delay=60) for u in table.claim(worker)])
        assert table.claim(worker) == []
        assert 50 < table.seconds_until_due(id) <= 60

    def test_needs_to_hold_the_job(self, table: JobTable) -> None:
        (id,) = table.queue()
        worker, other = table.worker(), table.worker()
        (unit,) = table.claim(worker)
        assert table.give_back(other, [again(unit, counted=False)]) == 0
        table.finish(worker, [failure(unit)])
        assert table.give_back(worker, [again(unit, counted=False)]) == 0
        assert table.states([id]) == ["failed"]


class TestLostAnswers:
    """A claim is committed, and its connection breaks before the worker knows of it."""

    def test_what_was_claimed_after_the_last_one_known_is_given_back(self, table: JobTable) -> None:
        worker, other = table.worker(), table.worker()
        one = table.model("one", max_records=1)
        known, lost, theirs, *_ = table.queue(4, one)
        (unit,) = table.claim(worker)
        table.claim(worker)
        table.claim(other)
        for id in (lost, theirs):
            table.started_in(id, 1)
        with table.database.write() as connection:
            assert work.disown(connection, worker, after=unit.claimed_at) == 1
        assert table.states([known, lost, theirs]) == ["running", "queued", "running"]
        assert table.attempts([known, lost, theirs]) == [1, 0, 1]

    def test_a_stage_may_be_repeated(self, table: JobTable) -> None:
        table.queue(2)
        worker = table.worker()
        units = table.claim(worker)
        pack = new_pack(2)
        for _ in range(2):
            assert len(table.stage(worker, [unit.id for unit in units], pack)) == 2
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 2


class TestForAnIdleDevice:
    def test_the_pack_of_a_single_unit_is_announced_with_it(self, table: JobTable) -> None:
        worker, pack = table.worker(), new_pack(tenant="not known yet")
        table.queue(1, tenant="t")
        (unit,) = table.claim(worker, at_once=pack)
        assert table.pack_states() == ["writing"]
        assert table.finish(worker, [success(unit, pack)], [pack.id]) == 1
        assert table.pack_states() == ["live"]
        assert table.get(unit.id).result_uri == pack.key

    def test_none_is_for_more_than_one_or_for_nothing(self, table: JobTable) -> None:
        worker = table.worker()
        assert table.claim(worker, at_once=new_pack()) == []
        table.queue(2)
        assert len(table.claim(worker, at_once=new_pack())) == 2
        assert table.pack_states() == []
