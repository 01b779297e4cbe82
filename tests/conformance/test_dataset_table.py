"""Datasets and their shards: counted once, ended once, and run by whoever holds them alone."""

import pytest

from headrace.dataset import PLANS, SHARDS, DatasetState, Spec
from headrace.db import closing, datasets, planning, publishing, shards, speeds, work, workers
from headrace.db.closing import START
from headrace.db.shards import Fence
from headrace.db.units import Failure
from headrace.errors import BadOutput, DatasetExists, LeaseLapsed, LeaseLost, UnitLost
from headrace.job import ErrorInfo, ModelKey
from tests.conformance.dataset_table import DatasetTable, cut, new_dataset
from tests.conformance.job_table import M1, QUARANTINE_AFTER, JobTable, again


@pytest.fixture
def sets(table: JobTable) -> DatasetTable:
    return DatasetTable(table)


class TestInsert:
    def test_what_was_asked_for_comes_back(self, sets) -> None:
        spec = Spec(
            "/in", "/out", {"image": ("a", "b")}, "id", ("x",), ("image",), "csv", "gzip", True, 7
        )
        id = sets.insert(spec=spec, tenant="t", deadline_in=60)
        found = sets.get(id)
        assert (found.spec, found.tenant, found.model) == (spec, "t", M1)
        assert found.state is DatasetState.QUEUED
        assert 59 < (found.deadline - found.created_at).total_seconds() < 61

    def test_twice_is_once(self, sets) -> None:
        new = new_dataset()
        assert sets.call(datasets.insert, new) == sets.call(datasets.insert, new) == new.id
        sets.claim(PLANS)
        with pytest.raises(ValueError, match="not enough"):
            sets.claim(PLANS)

    def test_an_output_has_one_dataset(self, sets) -> None:
        id = sets.insert()
        with pytest.raises(DatasetExists, match=id):
            sets.insert()
        assert sets.call(datasets.by_output, "/out").id == id

    def test_pages_are_newest_first_and_of_one_tenant(self, sets) -> None:
        ids = [sets.insert(f"/{n}") for n in range(3)]
        sets.insert("/other", tenant="other")
        sets.call(datasets.cancel, ids[1])
        every = [each.id for each in sets.call(datasets.page, "")]
        assert every == ids[::-1]
        assert [each.id for each in sets.call(datasets.page, "", after=ids[2], limit=1)] == [ids[1]]
        cancelled = sets.call(datasets.page, "", [DatasetState.CANCELLED])
        assert [each.id for each in cancelled] == [ids[1]]


class TestPlan:
    def test_shards_are_queued_in_their_own_line(self, sets) -> None:
        id = sets.planned(3, 4)
        assert sets.counts(id) == ("running", 7, 0, 0)
        fence = sets.shard()
        found = sets.call(shards.of_job, fence.job)
        assert (found.dataset, found.number, found.first, found.rows) == (id, 0, 0, 3)
        assert (found.uri, found.tag, found.reading) == ("/in/a.parquet", "tag", "{}")
        assert sets.table.claim(sets.table.worker()) == []

    def test_added_twice_they_are_there_once(self, sets) -> None:
        id = sets.insert()
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        files = [(n, f"/in/{n}.parquet", 10, "tag") for n in range(2)]
        sets.call(planning.add_files, fence, files)
        sets.call(planning.add_files, fence, files)
        assert len(sets.call(planning.add, fence, plan, cut(1, 2))) == 2
        assert len(sets.call(planning.add, fence, plan, cut(1, 2, 3))) == 1
        found = sets.get(id)
        assert (found.files, found.shards, found.open_shards, found.total) == (2, 3, 3, 6)
        assert found.started_at is not None

    def test_what_is_kept_is_told_to_who_plans_next(self, sets) -> None:
        id = sets.insert()
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        sets.call(planning.add_files, fence, [(n, f"/in/{n}", 10, "tag") for n in range(4)])
        sets.call(planning.set_reading, fence, "read so")
        sets.call(planning.add, fence, plan, cut(1, file=0), [0])
        sets.call(planning.add, fence, plan, cut(5, 6, file=2))
        sets.table.retire(fence.worker)
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        assert (plan.files, plan.reading) == (4, "read so")
        found = sets.call(planning.unplanned, id, -1, 2)
        assert [(each.number, each.uri, each.size, each.tag) for each in found] == [
            (1, "/in/1", 10, "tag"),
            (2, "/in/2", 10, "tag"),
        ]
        assert [each.last for each in found] == [None, cut(5, 6, file=2)[1]]
        assert [each.number for each in sets.call(planning.unplanned, id, 2, 2)] == [3]

    @pytest.mark.parametrize("how", ["retired", "cancelled", "ended"])
    def test_who_lost_it_adds_nothing(self, sets, how) -> None:
        id = sets.insert()
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        match how:
            case "retired":
                sets.table.retire(fence.worker)
            case "cancelled":
                sets.table.cancel(fence.job)
            case "ended":
                sets.call(datasets.cancel, id)
        with pytest.raises(LeaseLost if how == "retired" else UnitLost):
            sets.call(planning.add, fence, plan, cut(1))
        with pytest.raises(LeaseLost if how == "retired" else UnitLost):
            sets.call(planning.planned, fence)
        assert sets.get(id).shards == 0

    def test_planned_twice_is_planned_once(self, sets) -> None:
        id = sets.insert()
        fence = sets.claim(PLANS)
        sets.call(planning.planned, fence)
        at = sets.get(id).planned_at
        sets.call(planning.planned, fence)
        assert sets.get(id).planned_at == at is not None
        assert sets.call(planning.plan_of, fence.job) is None


class TestFinish:
    def test_counts_its_records(self, sets) -> None:
        id = sets.planned(3, 4)
        first, second = sets.shard(), sets.shard()
        sets.finish(first, 2, 1, duplicates=1)
        sets.finish(second, 4)
        assert sets.counts(id) == ("running", 7, 6, 1)
        found = sets.get(id)
        assert (found.duplicates, found.open_shards) == (1, 2)

    def test_twice_counts_once(self, sets) -> None:
        """The answer to the first time got lost; what was sealed then must not be discarded."""
        id = sets.planned(3)
        fence = sets.shard()
        sealed = sets.finish(fence, 3)
        sets.finish(fence, 3, sealed=sealed)
        sets.table.retire(fence.worker)
        sets.finish(fence, 3, sealed=sealed)
        assert sets.counts(id) == ("running", 3, 3, 0)
        with pytest.raises(LeaseLost):
            sets.finish(fence, 3, sealed="another")

    def test_of_a_lapsed_lease_has_to_wait(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        sets.table.lease_in(fence.worker, -1)
        with pytest.raises(LeaseLapsed):
            sets.finish(fence, 3)
        assert sets.counts(id) == ("running", 3, 0, 0)

    def test_after_another_took_it_changes_nothing(self, sets) -> None:
        id = sets.planned(3)
        zombie = sets.shard()
        sets.table.retire(zombie.worker)
        heir = sets.shard()
        assert heir.job == zombie.job
        with pytest.raises(LeaseLost):
            sets.finish(zombie, 3, sealed="zombie")
        assert not sets.call(shards.wanted, zombie)
        assert not sets.call(shards.note, zombie, 2)
        sealed = sets.finish(heir, 3)
        assert [each.sealed for each in sets.unpublished(id)] == [sealed]

    def test_of_the_claim_before_changes_nothing(self, sets) -> None:
        sets.planned(3)
        worker = sets.table.worker()
        before = sets.shard(worker)
        unit = again(_unit(before), counted=True)
        sets.table.give_back(worker, [unit])
        after = sets.shard(worker)
        with pytest.raises(UnitLost):
            sets.finish(before, 3)
        sets.finish(after, 3)

    def test_is_refused_where_rows_are_missing(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        with pytest.raises(BadOutput, match="3 records, but 1 results and 1 errors"):
            sets.finish(fence, 1, 1)
        assert sets.counts(id) == ("running", 3, 0, 0)
        sets.finish(fence, 2, 1)

    def test_after_a_cancel_of_its_job_changes_nothing(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        assert sets.call(shards.wanted, fence)
        sets.call(datasets.cancel, id)
        assert not sets.call(shards.wanted, fence)
        assert not sets.call(shards.note, fence, 1)
        sets.stop(id)
        with pytest.raises(UnitLost):
            sets.finish(fence, 3)
        assert sets.counts(id) == ("cancelled", 3, 0, 0)

    def test_measures_how_fast_the_model_is(self, sets) -> None:
        sets.planned(30, 30)
        sets.finish(sets.shard(), 30, seconds=3.0)
        assert sets.call(speeds.get, M1) == 10
        sets.finish(sets.shard(), 30, seconds=1.5)
        assert sets.call(speeds.get, M1) == pytest.approx(0.7 * 10 + 0.3 * 20)


class TestProgress:
    def test_counts_what_runs(self, sets) -> None:
        id = sets.planned(30, 30, 30)
        sets.call(speeds.measured, ModelKey("m", 2), 7.0)
        sets.finish(sets.shard(), 30, seconds=3.0)
        fences = [sets.shard(), sets.shard()]
        assert sets.call(shards.note, fences[0], 5)
        assert sets.call(shards.note, fences[1], 7)
        found = sets.get(id)
        assert (found.done, found.running) == (42, 12)
        assert found.rows_per_second == pytest.approx(20), "both as fast as the one before"
        assert found.seconds_left == pytest.approx((90 - 42) / 20)
        sets.table.started_in(fences[0].job, -10)
        assert sets.get(id).rows_per_second == pytest.approx(10 + 0.5, rel=0.01)

    def test_of_the_dead_is_not_counted(self, sets) -> None:
        id = sets.planned(30)
        fence = sets.shard()
        sets.call(shards.note, fence, 5)
        sets.table.retire(fence.worker)
        assert sets.get(id).running == 0
        assert sets.get(id).rows_per_second is None

    def test_that_is_named_on_the_device_is_a_suspect_when_nobody_can_tell(self, sets) -> None:
        sets.planned(3)
        fence = sets.shard()
        sets.call(work.name, fence.worker, [fence.job])
        sets.table.lease_in(fence.worker, -1)
        sets.call(workers.bury, fence.worker, quarantine_after=3)
        assert sets.table.get(fence.job).deaths == 1

    def test_a_trail_outlives_its_worker_and_clears_the_shard(self, sets) -> None:
        sets.planned(30)
        fence = sets.shard()
        sets.table.retire(fence.worker, fence.job)
        fence = sets.shard()
        assert sets.table.get(fence.job).deaths == 1
        assert sets.call(shards.note, fence, 5, "rows 5 to 9")
        assert sets.table.get(fence.job).deaths == 0
        sets.call(shards.note, fence, 6)
        sets.table.retire(fence.worker, fence.job)
        assert sets.call(shards.of_job, fence.job).trail == "rows 5 to 9"


class TestPublish:
    def test_twice_is_once(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        sets.finish(fence, 3)
        (left,) = sets.unpublished(id)
        assert sets.call(publishing.published, left.key)
        assert not sets.call(publishing.published, left.key)
        assert sets.get(id).open_shards == 0
        assert sets.unpublished(id) == []

    def test_leaves_the_worker_time_to_do_it(self, sets) -> None:
        sets.planned(3)
        fence = sets.shard()
        sets.finish(fence, 3)
        assert sets.unpublished(older_than=60) == []
        sets.finished_in(fence.job, -61)
        assert len(sets.unpublished(older_than=60)) == 1

    def test_needs_a_finish(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        key = sets.call(shards.of_job, fence.job).key
        assert not sets.call(publishing.published, key)
        assert sets.get(id).open_shards == 1

    def test_what_was_lost_runs_again(self, sets) -> None:
        id = sets.planned(3)
        sets.finish(sets.shard(), 2, 1)
        (gone,) = sets.unpublished()
        assert sets.call(publishing.lost, gone)
        assert not sets.call(publishing.lost, gone)
        assert sets.counts(id) == ("running", 3, 0, 0)
        sets.run(3)
        assert sets.counts(id) == ("running", 3, 3, 0)
        assert sets.get(id).open_shards == 0

    def test_what_was_published_is_not_lost(self, sets) -> None:
        sets.planned(3)
        sets.finish(sets.shard(), 3)
        (left,) = sets.unpublished()
        sets.publish()
        assert not sets.call(publishing.lost, left)


class TestEnd:
    @pytest.mark.parametrize(("failed", "state"), [(0, "succeeded"), (1, "partial"), (3, "failed")])
    def test_is_what_became_of_the_records(self, sets, failed, state) -> None:
        id = sets.planned(3)
        sets.run(3 - failed, failed)
        assert sets.call(closing.closable) == [id]
        settled = sets.call(closing.settle, id)
        assert (settled.state, settled.failed) == (state, failed)
        assert sets.get(id).state == "running", "until its manifest is there"
        assert sets.call(closing.close, id, 1)
        assert sets.get(id).state == state
        assert sets.get(id).finished_at is not None
        assert sets.call(closing.closable) == []

    def test_by_two_at_once_is_one_end(self, sets) -> None:
        id = sets.planned(3)
        sets.run(3)
        first, second = sets.call(closing.settle, id), sets.call(closing.settle, id)
        assert first == second
        assert sets.call(closing.close, id, 1)
        assert not sets.call(closing.close, id, 1)
        assert sets.call(closing.settle, id) is None

    @pytest.mark.parametrize("missing", ["plan", "shard", "publish"])
    def test_waits_for_all_of_it(self, sets, missing) -> None:
        id = sets.insert()
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        sets.call(planning.add_files, fence, [(0, "/in/a", 10, "tag")])
        sets.call(planning.add, fence, plan, cut(3), [0])
        if missing != "plan":
            sets.call(planning.planned, fence)
        if missing != "shard":
            sets.finish(sets.shard(), 3)
        if missing != "publish":
            sets.publish()
        assert sets.call(closing.settle, id) is None
        assert sets.call(closing.closable) == []
        assert not sets.call(closing.close, id, 1)

    def test_without_any_record_is_a_success(self, sets) -> None:
        id = sets.planned()
        assert sets.close(id).state == "succeeded"

    def test_of_the_cancelled_waits_for_what_is_sealed_and_what_runs(self, sets) -> None:
        id = sets.planned(3, 4)
        first, second = sets.shard(), sets.shard()
        assert sets.call(datasets.cancel, id)
        assert not sets.call(datasets.cancel, id)
        sets.finish(first, 3)
        assert sets.call(closing.settle, id) is None, "the second may finish yet"
        sets.stop(id)
        assert sets.call(closing.settle, id) is None, "the first is not published"
        sets.publish()
        settled = sets.close(id)
        assert (settled.state, settled.succeeded, settled.total) == ("cancelled", 3, 7)
        with pytest.raises(UnitLost):
            sets.finish(second, 4)

    def test_stops_jobs_some_at_a_time(self, sets) -> None:
        id = sets.planned(1, 1, 1, 1, 1)
        sets.call(datasets.cancel, id)
        assert sets.stop(id, limit=2) == 3
        with pytest.raises(ValueError, match="not enough"):
            sets.claim(SHARDS)

    def test_stops_a_plan(self, sets) -> None:
        id = sets.insert()
        sets.call(datasets.cancel, id)
        sets.stop(id)
        with pytest.raises(ValueError, match="not enough"):
            sets.claim(PLANS)
        assert sets.close(id).state == "cancelled"

    def test_of_the_overdue(self, sets) -> None:
        id, other = sets.planned(3), sets.insert("/other", deadline_in=60)
        assert sets.call(datasets.expire) == 0
        sets.deadline_in(id, -1)
        assert sets.call(datasets.expire) == 1
        assert sets.get(id).state == "expired"
        assert sets.get(id).error.code == "deadline"
        assert sets.get(other).state == "queued"

    def test_of_what_is_done_is_no_cancel_and_no_deadline(self, sets) -> None:
        """Its manifest may be late, as where the store does not answer."""
        id = sets.planned(3)
        sets.run(3)
        sets.deadline_in(id, -1)
        assert not sets.call(datasets.cancel, id)
        assert sets.call(datasets.expire) == 0
        assert sets.close(id).state == "succeeded"

    def test_of_a_unit_that_failed_is_the_dataset_s(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        sets.call(shards.fail, fence, "input_changed", "another file")
        found = sets.get(id)
        assert found.state == "failed"
        assert found.error == ErrorInfo("input_changed", "shard 0-0: another file")

    def test_of_a_plan_that_failed_is_the_dataset_s(self, sets) -> None:
        id = sets.insert()
        sets.call(shards.fail, sets.claim(PLANS), "invalid_input", "no such file")
        assert sets.get(id).error == ErrorInfo("invalid_input", "no such file")

    def test_of_a_unit_in_quarantine_is_the_dataset_s(self, sets) -> None:
        id = sets.planned(3)
        for _ in range(QUARANTINE_AFTER):
            assert sets.get(id).state == "running"
            fence = sets.shard()
            sets.table.retire(fence.worker, fence.job)
        assert sets.get(id).error.code == "quarantined"
        assert sets.call(closing.closable) == [id]

    def test_takes_every_row_along_in_the_end(self, sets) -> None:
        id = sets.planned(1, 1, 1)
        assert sets.call(closing.forget, id, 100), "it is not closed: nothing to do"
        assert sets.get(id).state == "running"
        sets.ended(id)
        steps = 1
        while not sets.call(closing.forget, id, 2):
            steps += 1
        assert steps == 2
        assert sets.call(datasets.get, id) is None
        sets.insert()


class TestAgain:
    def test_what_was_cut_short_goes_on(self, sets) -> None:
        id = sets.planned(3, 4, 5)
        sets.run(3)
        fence = sets.shard()
        assert not sets.call(datasets.go_on, sets.again(id)), "it runs"
        sets.call(datasets.cancel, id)
        assert not sets.call(datasets.go_on, sets.again(id)), "it is not closed"
        sets.stop(id)
        assert sets.close(id) is not None
        assert sets.call(datasets.go_on, sets.again(id))
        assert not sets.call(datasets.go_on, sets.again(id))
        assert sets.counts(id) == ("running", 12, 3, 0)
        assert sets.renew(id, limit=2) == 2
        with pytest.raises(UnitLost):
            sets.finish(fence, 4)
        sets.run(4)
        sets.run(5)
        assert sets.close(id).state == "succeeded"
        assert sets.counts(id) == ("succeeded", 12, 12, 0)

    def test_what_was_cut_short_in_its_plan_goes_on_with_that(self, sets) -> None:
        id = sets.insert()
        sets.ended(id)
        assert sets.call(datasets.go_on, sets.again(id))
        assert sets.get(id).state == "queued"
        sets.plan(id, 3)
        assert sets.get(id).state == "running"

    def test_planning_again_leaves_alone_what_runs(self, sets) -> None:
        sets.planned(3, 4)
        other = sets.insert("/other")
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        sets.call(planning.add, fence, plan, cut(1, 2))
        sets.table.retire(fence.worker)
        sets.claim(SHARDS)
        assert sets.renew(other) == 0

    def test_what_failed_runs_again(self, sets) -> None:
        id = sets.planned(3, 4)
        sets.run(3)
        sealed = sets.finish(sets.shard(), 1, 3)
        sets.publish()
        assert not sets.call(datasets.run_failed, sets.again(id))
        sets.close(id)
        assert not sets.call(datasets.go_on, sets.again(id)), "it ran to its end"
        assert sets.call(datasets.run_failed, sets.again(id))
        assert not sets.call(datasets.run_failed, sets.again(id))
        assert sets.renew(id, limit=1) == 1
        fence = sets.shard()
        found = sets.call(shards.of_job, fence.job)
        assert (found.number, found.run, found.before) == (1, 2, sealed)
        with pytest.raises(BadOutput):
            sets.finish(fence, 4)
        sets.call(shards.note, fence, 2)
        assert sets.get(id).done == 7
        sets.finish(fence, 2, 1)
        sets.publish()
        assert sets.counts(id) == ("running", 7, 6, 1)
        assert sets.close(id).state == "partial"

        assert sets.call(datasets.run_failed, sets.again(id))
        assert sets.renew(id) == 1
        sets.run(1)
        assert sets.close(id).state == "succeeded"
        assert sets.counts(id) == ("succeeded", 7, 7, 0)
        assert not sets.call(datasets.run_failed, sets.again(id))

    def test_a_plan_of_that_may_stop_anywhere(self, sets) -> None:
        id = sets.planned(2, 2, 2)
        for _ in range(3):
            sets.run(1, 1)
        sets.close(id)
        sets.call(datasets.run_failed, sets.again(id))
        fence = sets.claim(PLANS)
        plan = sets.call(planning.plan_of, fence.job)
        made, _ = sets.call(planning.renew, fence, plan, START, 2)
        assert len(made) == 2
        sets.table.retire(fence.worker)
        assert sets.renew(id, limit=2) == 1
        assert sets.get(id).open_shards == 3

    def test_lost_files_of_a_later_run_leave_its_records_failed(self, sets) -> None:
        id = sets.planned(4)
        sets.run(1, 3)
        sets.close(id)
        sets.call(datasets.run_failed, sets.again(id))
        sets.renew(id)
        sets.finish(sets.shard(), 2, 1)
        (gone,) = sets.unpublished()
        assert sets.counts(id) == ("running", 4, 3, 1)
        sets.call(publishing.lost, gone)
        assert sets.counts(id) == ("running", 4, 1, 3)


def _unit(fence: Fence):
    return Failure(fence.job, fence.attempt, "", "")
