"""Leases: what a dead worker held runs elsewhere, and only what it ran is blamed."""

import pytest

from headrace.db import workers
from headrace.errors import LeaseLapsed, LeaseLost
from headrace.job import ModelKey, WorkerId
from tests.conformance.job_table import (
    QUARANTINE_AFTER,
    JobTable,
    again,
    failure,
    new_id,
    new_pack,
    success,
)


def alive(table: JobTable, pool: str | None = None) -> list[WorkerId]:
    with table.database.read() as connection:
        return [worker.id for worker in workers.alive(connection, pool)]


class TestLease:
    def test_one_that_ran_out_is_whole_again_when_it_is_renewed(self, table: JobTable) -> None:
        """As after an outage of the database: nobody has touched the worker's jobs."""
        ids = table.queue(2)
        worker = table.worker()
        units = table.claim(worker)
        pack = new_pack()
        table.stage(worker, ids, pack)
        table.lease_in(worker, -100)
        assert alive(table) == []
        with pytest.raises(LeaseLapsed):
            table.finish(worker, [success(unit, pack) for unit in units], [pack.id])
        assert table.renew(worker)
        assert alive(table) == [worker]
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 2

    def test_one_that_was_taken_stays_lost(self, table: JobTable) -> None:
        swept, retired = table.worker(), table.worker()
        table.lease_in(swept, -1)
        table.sweep()
        table.retire(retired)
        assert not table.renew(swept)
        assert not table.renew(retired)

    def test_alive_shows_who_holds_one_in_the_pool(self, table: JobTable) -> None:
        first, second, gpu = table.worker(), table.worker(), table.worker("gpu")
        table.lease_in(table.worker(), -1)
        assert alive(table) == [first, second, gpu]
        assert alive(table, "gpu") == [gpu]

    def test_a_worker_is_ready_once_it_says_so(self, table: JobTable) -> None:
        worker = table.worker()
        with table.database.write() as connection:
            assert workers.alive(connection)[0].ready_at is None
            workers.ready(connection, worker)
            assert workers.alive(connection)[0].ready_at is not None


class TestRetire:
    def test_what_was_on_the_device_is_suspect_and_runs_alone(self, table: JobTable) -> None:
        ids = table.queue(4)
        worker = table.worker()
        table.claim(worker)
        swept = table.retire(worker, *ids[:2])
        assert (swept.dead_workers, swept.suspects, swept.given_back) == (1, 2, 2)
        assert table.states(ids) == ["queued"] * 4
        assert table.records(ids) == [(0, 0)] * 4
        other = table.worker()
        claims = [table.claim(other) for _ in range(4)]
        assert [[u.id for u in units] for units in claims] == [[ids[0]], [ids[1]], ids[2:], []]
        assert [u.suspect for units in claims for u in units] == [True, True, False, False]

    @pytest.mark.parametrize("passing_over", [(), (ModelKey("other", 1),)])
    def test_what_was_claimed_to_run_at_once_is_suspect_unstaged(
        self, table: JobTable, passing_over: tuple[ModelKey, ...]
    ) -> None:
        ids = table.queue(2)
        worker = table.worker()
        table.stage(worker, [new_id()])
        assert len(table.claim(worker, excluding=passing_over, at_once=new_pack())) == 2
        assert table.claim(worker, at_once=new_pack()) == []
        table.lease_in(worker, -1)
        swept = table.sweep()
        assert swept is not None
        assert swept.suspects == 2
        assert table.states(ids) == ["queued"] * 2

    def test_other_workers_jobs_stay_theirs(self, table: JobTable) -> None:
        mine = table.queue()
        table.claim(table.worker())
        dead = table.worker()
        table.stage(dead, mine)
        assert table.retire(dead, *mine).suspects == 0
        assert table.states(mine) == ["running"]

    def test_what_has_ended_stays_as_it_is(self, table: JobTable) -> None:
        ids = table.queue(3)
        worker = table.worker()
        units = {unit.id: unit for unit in table.claim(worker)}
        table.stage(worker, ids, on_device=ids)
        table.finish(worker, [failure(units[ids[0]])])
        table.cancel(ids[1])
        table.retire(worker, *ids)
        assert table.states(ids) == ["failed", "cancelled", "queued"]

    def test_twice_frees_once(self, table: JobTable) -> None:
        (id,) = table.queue()
        worker = table.worker()
        table.claim(worker)
        assert table.retire(worker)
        table.claim(table.worker())
        assert not table.retire(worker)
        assert not table.retire(WorkerId(new_id()))
        assert table.states([id]) == ["running"]

    def test_one_that_kills_alone_is_quarantined_and_its_mates_keep_a_clean_record(
        self, table: JobTable
    ) -> None:
        killer, mate = ids = table.queue(2)
        worker = table.worker()
        table.claim(worker)
        table.retire(worker, *ids)
        order = []
        while units := table.claim(worker := table.worker()):
            order += [unit.id for unit in units]
            if order[-1] == killer:
                assert table.retire(worker, killer).quarantined == (order.count(killer) == 3)
            else:
                table.run(worker, units)
        assert order == [killer, mate, killer, killer]
        assert table.records(ids) == [(1, QUARANTINE_AFTER), (1, 0)]
        assert table.states(ids) == ["failed", "succeeded"]
        error = table.get(killer).error
        assert error is not None
        assert error.code == "quarantined"
        assert "3 workers died" in error.message
        assert "SIGSEGV" in error.message

    def test_a_kill_hits_another_job_the_next_time(self, table: JobTable) -> None:
        """Who kills whatever runs, again and again, condemns nobody while there is work."""
        one = table.model("one", max_records=1)
        ids = table.queue(8, one) + table.queue(2, one, tenant="other")
        for _ in range(2 * len(ids)):
            (unit,) = table.claim(worker := table.worker())
            table.retire(worker, unit.id)
        assert table.records(ids) == [(0, 2)] * len(ids)

    def test_what_was_quarantined_is_replayed_alone_and_clean(self, table: JobTable) -> None:
        (id,) = table.queue()
        for _ in range(QUARANTINE_AFTER):
            table.claim(worker := table.worker())
            table.retire(worker, id)
        assert table.states([id]) == ["failed"]
        assert table.replay(id) == [id]
        table.queue(3)
        assert table.records([id]) == [(0, 0)]
        claims = [table.claim(worker := table.worker()) for _ in range(2)]
        assert [(len(units), units[0].suspect) for units in claims] == [(1, True), (3, False)]

    def test_a_worker_that_is_at_a_cancelled_job_cannot_end_its_replay(
        self, table: JobTable
    ) -> None:
        """Though the replay may be its own."""
        (id,) = table.queue()
        worker = table.worker()
        (unit,) = table.claim(worker)
        table.cancel(id)
        table.replay(id)
        (new,) = table.claim(worker)
        assert table.finish(worker, [failure(unit)]) == 0
        assert table.finish(worker, [failure(new)]) == 1

    def test_a_retry_or_a_give_back_does_not_clear_a_suspect(self, table: JobTable) -> None:
        ids = table.queue(2)
        worker = table.worker()
        table.claim(worker)
        table.retire(worker, *ids)
        worker = table.worker()
        for counted in (True, False):
            (unit,) = table.claim(worker)
            table.give_back(worker, [again(unit, counted=counted)])
            assert unit.suspect

    def test_its_half_written_packs_are_to_be_deleted(self, table: JobTable) -> None:
        table.queue(2)
        worker = table.worker()
        units = table.claim(worker)
        table.run(worker, units[:1])
        table.stage(worker, [units[1].id])
        table.stage(other := table.worker(), [])
        table.retire(worker)
        assert sorted(table.pack_states()) == ["deleted", "live", "writing"]
        assert alive(table) == [other]

    def test_a_retired_worker_can_finish_nothing(self, table: JobTable) -> None:
        (id,) = table.queue()
        worker = table.worker()
        (unit,) = table.claim(worker)
        pack = new_pack()
        table.stage(worker, [id], pack)
        table.retire(worker)
        with pytest.raises(LeaseLost):
            table.finish(worker, [failure(unit)], [pack.id])
        assert table.states([id]) == ["queued"]
