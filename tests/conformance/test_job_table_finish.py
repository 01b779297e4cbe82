"""Stage and finish: only who holds a job may end it, and never without its pack."""

import pytest

from headrace.db import views
from headrace.db.units import Unit
from headrace.errors import LeaseLapsed, PackLost
from headrace.job import ErrorInfo, JobState, WorkerId
from tests.conformance.job_table import JobTable, again, failure, new_pack, success


@pytest.fixture
def worker(table: JobTable) -> WorkerId:
    return table.worker()


@pytest.fixture
def units(table: JobTable, worker: WorkerId) -> list[Unit]:
    """Three claimed jobs, in order of submission."""
    table.queue(3)
    return sorted(table.claim(worker), key=lambda unit: unit.id)


def ids(units: list[Unit]) -> list[str]:
    return [unit.id for unit in units]


class TestStage:
    def test_tells_what_is_still_ours(self, table, worker, units) -> None:
        assert table.stage(worker, ids(units)) == set(ids(units))

    def test_drops_what_was_cancelled_meanwhile(self, table, worker, units) -> None:
        table.cancel(units[0].id)
        assert table.stage(worker, ids(units)) == set(ids(units[1:]))

    def test_drops_what_was_deleted_meanwhile(self, table, worker, units) -> None:
        table.cancel(units[0].id)
        table.delete(units[0].id)
        assert table.stage(worker, ids(units)) == set(ids(units[1:]))

    def test_drops_what_another_worker_has_now(self, table, worker, units) -> None:
        table.give_back(worker, [again(units[0], counted=False)])
        table.claim(table.worker())
        assert table.stage(worker, ids(units)) == set(ids(units[1:]))

    def test_drops_what_is_past_its_deadline_though_no_sweep_came(
        self, table, worker, units
    ) -> None:
        table.deadline_in(units[0].id, -1)
        table.deadline_in(units[1].id, 60)
        assert table.stage(worker, ids(units)) == set(ids(units[1:]))

    def test_needs_a_lease(self, table, worker, units) -> None:
        table.lease_in(worker, -1)
        with pytest.raises(LeaseLapsed):
            table.stage(worker, ids(units))
        assert table.pack_states() == []

    def test_twice_is_once(self, table, worker, units) -> None:
        """As where the first one's answer was lost."""
        pack = new_pack(3)
        assert table.stage(worker, ids(units), pack) == table.stage(worker, ids(units), pack)
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 3

    def test_announces_the_pack_before_there_is_one(self, table, worker, units) -> None:
        table.stage(worker, ids(units))
        assert table.pack_states() == ["writing"]


class TestFinish:
    def test_commits_every_kind_of_outcome_at_once(self, table, worker, units) -> None:
        pack = new_pack(3)
        table.stage(worker, ids(units), pack)
        outcomes = [success(units[0], pack), failure(units[1]), again(units[2], counted=True)]
        assert table.finish(worker, outcomes, [pack.id]) == 3
        assert table.states(ids(units)) == ["succeeded", "failed", "queued"]
        assert table.attempts(ids(units)) == [1, 1, 1]
        assert table.pack_states() == ["live"]
        done, failed = table.get(units[0].id), table.get(units[1].id)
        assert (done.result_uri, done.batch_size) == (pack.key, 3)
        assert failed.error == ErrorInfo("model_error", "no good")
        assert None not in (done.finished_at, failed.finished_at)

    def test_the_result_is_found_by_range_and_inline(self, table, worker, units) -> None:
        pack = new_pack(2)
        table.stage(worker, ids(units), pack)
        large = success(units[1], pack, inline=None)
        table.finish(worker, [success(units[0], pack), large], [pack.id])
        with table.database.read() as connection:
            found = views.results(connection, ids(units))
        small, large, none = (found[id] for id in ids(units))
        assert (small.inline, small.key, small.offset, small.length) == (b"result", pack.key, 0, 6)
        assert (large.inline, large.key) == (None, pack.key)
        assert (none.state, none.inline, none.key) == (JobState.RUNNING, None, None)

    def test_an_unused_pack_is_forgotten(self, table, worker, units) -> None:
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        table.finish(worker, [failure(unit) for unit in units], unused=[pack.id])
        assert table.pack_states() == []

    def test_a_result_that_comes_late_counts_unless_the_sweep_was_first(
        self, table, worker, units
    ) -> None:
        pack = new_pack(2)
        table.stage(worker, ids(units), pack)
        for unit in units[:2]:
            table.deadline_in(unit.id, -1)
        assert table.finish(worker, [success(units[0], pack)], [pack.id]) == 1
        table.sweep()
        assert table.finish(worker, [failure(units[1])]) == 0
        assert table.states(ids(units)) == ["succeeded", "expired", "running"]

    def test_an_earlier_attempt_changes_nothing(self, table, worker, units) -> None:
        """The same worker, given its own job again: its first run must not end the second."""
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        table.finish(worker, [again(units[0], counted=True)])
        (second,) = table.claim(worker)
        assert (second.id, second.attempt) == (units[0].id, 2)
        for outcome in (success(units[0], pack), failure(units[0]), again(units[0], counted=True)):
            assert table.finish(worker, [outcome]) == 0
        assert table.states([second.id]) == ["running"]
        assert table.attempts([second.id]) == [2]

    def test_another_worker_changes_nothing(self, table, worker, units) -> None:
        """Also where the attempt is the same, as after a give-back."""
        table.give_back(worker, [again(unit, counted=False) for unit in units])
        other = table.worker()
        assert {unit.attempt for unit in table.claim(other)} == {1}
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 0
        assert table.finish(worker, [failure(unit) for unit in units]) == 0
        assert table.states(ids(units)) == ["running"] * 3

    def test_a_job_cancelled_meanwhile_stays_cancelled_and_its_mates_succeed(
        self, table, worker, units
    ) -> None:
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        table.cancel(units[1].id)
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 2
        assert table.states(ids(units)) == ["succeeded", "cancelled", "succeeded"]
        with table.database.read() as connection:
            assert views.results(connection, [units[1].id])[units[1].id].inline is None

    def test_a_pack_that_nobody_points_at_is_to_be_deleted(self, table, worker, units) -> None:
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        for unit in units:
            table.cancel(unit.id)
        assert table.finish(worker, [success(unit, pack) for unit in units], [pack.id]) == 0
        assert table.pack_states() == ["deleted"]

    def test_of_two_packs_only_the_one_that_has_a_job_stays(self, table, worker, units) -> None:
        theirs, ours = new_pack(tenant="a"), new_pack(2, tenant="b")
        table.stage(worker, ids(units), theirs)
        table.stage(worker, ids(units), ours)
        table.cancel(units[0].id)
        outcomes = [success(units[0], theirs), *(success(unit, ours) for unit in units[1:])]
        assert table.finish(worker, outcomes, [theirs.id, ours.id]) == 2
        assert table.pack_states() == ["deleted", "live"]
        table.delete(units[1].id)
        assert table.pack_states() == ["deleted", "live"]
        table.delete(units[2].id)
        assert table.pack_states() == ["deleted", "deleted"]

    def test_the_same_finish_twice_changes_nothing_more(self, table, worker, units) -> None:
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        outcomes = [success(unit, pack) for unit in units]
        table.finish(worker, outcomes, [pack.id])
        before = [table.get(id) for id in ids(units)]
        with pytest.raises(PackLost):
            table.finish(worker, outcomes, [pack.id])
        assert [table.get(id) for id in ids(units)] == before

    def test_a_worker_without_a_lease_changes_nothing(self, table, worker, units) -> None:
        pack = new_pack()
        table.stage(worker, ids(units), pack)
        table.lease_in(worker, -1)
        with pytest.raises(LeaseLapsed):
            table.finish(worker, [success(unit, pack) for unit in units], [pack.id])
        assert table.states(ids(units)) == ["running"] * 3
        assert table.pack_states() == ["writing"]

    def test_a_swept_pack_undoes_the_whole_finish(self, table, worker, units) -> None:
        kept, swept = new_pack(), new_pack()
        table.stage(worker, ids(units), kept)
        table.stage(worker, ids(units), swept)
        table.sweep_pack(swept.id)
        with pytest.raises(PackLost, match=swept.id):
            table.finish(worker, [success(units[0], kept)], [kept.id, swept.id])
        assert table.states(ids(units)) == ["running"] * 3
        assert sorted(table.pack_states()) == ["deleted", "writing"]

    def test_a_pack_nobody_announced_is_lost(self, table, worker, units) -> None:
        pack = new_pack()
        with pytest.raises(PackLost):
            table.finish(worker, [success(units[0], pack)], [pack.id])


class TestAgain:
    def test_a_retry_counts_and_waits(self, table, worker, units) -> None:
        table.finish(worker, [again(units[0], counted=True, delay=60)])
        job = table.get(units[0].id)
        assert (job.state, job.attempt, job.started_at) == ("queued", 1, None)
        assert 50 < table.seconds_until_due(job.id) <= 60
        assert table.claim(worker) == []
        table.due_in(job.id, 0)
        assert [unit.attempt for unit in table.claim(worker)] == [2]

    def test_a_give_back_does_not_count(self, table, worker, units) -> None:
        table.finish(worker, [again(unit, counted=False) for unit in units])
        assert table.attempts(ids(units)) == [0] * 3
