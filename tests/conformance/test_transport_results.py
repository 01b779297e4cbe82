"""What every transport promises to a Client: status, results, cancelling, listing."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from headrace import Client, payload
from headrace.db import workers
from headrace.db.engine import Database
from headrace.db.units import Success, Unit
from headrace.errors import (
    InvalidInput,
    JobCancelled,
    JobExpired,
    JobFailed,
    ObjectMissing,
    WaitTimeout,
)
from headrace.job import JobId, WorkerId
from headrace.storage import ObjectStore
from headrace.storage.packs import build_pack
from tests.conformance.job_table import JobTable, again, failure, new_pack
from tests.conformance.registered import IMAGE, register

IMAGE_1 = np.zeros((2, 2), np.float32)


@pytest.fixture
def worker(table: JobTable) -> WorkerId:
    return table.worker()


def results_of(count: int) -> list[dict]:
    return [{"scores": np.full(3, n, np.float32), "text": f"№ {n}"} for n in range(count)]


def finish(
    table: JobTable,
    store: ObjectStore,
    worker: WorkerId,
    units: Sequence[Unit],
    results: Sequence[dict],
    inline: bool = False,
) -> str:
    """As a worker does it; returns the pack's key."""
    encoded = [payload.encode(result) for result in results]
    data, places = build_pack(
        [(unit.id, result) for unit, result in zip(units, encoded, strict=True)]
    )
    pack = new_pack(len(units))
    table.stage(worker, [unit.id for unit in units], pack)
    store.put(pack.key, data)
    outcomes = [
        Success(unit.id, unit.attempt, pack.id, *place, result if inline else None)
        for unit, result, place in zip(units, encoded, places, strict=True)
    ]
    assert table.finish(worker, outcomes, [pack.id]) == len(units)
    return pack.key


def in_order(units: Sequence[Unit]) -> list[Unit]:
    return sorted(units, key=lambda unit: unit.id)


class TestResults:
    @pytest.mark.parametrize("inline", [True, False])
    def test_come_back_typed_and_in_the_order_asked_for(
        self, client: Client, table: JobTable, store: ObjectStore, worker: WorkerId, inline: bool
    ) -> None:
        ids = client.submit_many("digits", np.zeros((6, 2, 2), np.float32))
        units = in_order(table.claim(worker))
        want = results_of(6)
        finish(table, store, worker, units[::2], want[::2], inline)
        finish(table, store, worker, units[1::2], want[1::2], not inline)
        order = [5, 0, 3, 3, 1]
        got = client.results([ids[n] for n in order], timeout=5)
        assert [result["text"] for result in got] == [f"№ {n}" for n in order]
        for n, result in zip(order, got, strict=True):
            np.testing.assert_array_equal(result["scores"], want[n]["scores"])
            assert result["scores"].dtype == np.float32
            result["scores"][0] = -1.0  # the caller's own, to write to

    def test_of_nothing_is_nothing(self, client: Client) -> None:
        assert client.results([]) == []
        assert client.wait([]) == []

    def test_a_lost_object_is_named(
        self, client: Client, table: JobTable, store: ObjectStore, worker: WorkerId
    ) -> None:
        id = client.submit("digits", IMAGE_1)
        key = finish(table, store, worker, table.claim(worker), results_of(1))
        store.delete([key])
        with pytest.raises(ObjectMissing, match=key):
            client.result(id, timeout=5)

    def test_the_job_tells_where_its_result_lies(
        self, client: Client, table: JobTable, store: ObjectStore, worker: WorkerId
    ) -> None:
        id = client.submit("digits", IMAGE_1)
        key = finish(table, store, worker, table.claim(worker), results_of(1))
        job = client.get(id)
        assert job.result_uri == f"{store.url}/{key}"
        assert job.batch_size == 1


class TestJobsWithoutResult:
    def test_a_failed_one_raises_its_code_and_message(self, client, table, worker) -> None:
        id = client.submit("digits", IMAGE_1)
        table.finish(worker, [failure(unit) for unit in table.claim(worker)])
        with pytest.raises(JobFailed) as caught:
            client.result(id, timeout=5)
        error = caught.value
        assert (error.job_id, error.error_code, error.message) == (id, "model_error", "no good")
        assert client.status(id).detail == "model_error: no good"

    def test_a_cancelled_one(self, client: Client) -> None:
        id = client.submit("digits", IMAGE_1)
        assert client.cancel(id) == [id]
        assert client.cancel([id]) == []
        with pytest.raises(JobCancelled, match=f"job {id}: cancelled: the job is cancelled"):
            client.result(id, timeout=5)

    def test_an_expired_one(self, client: Client, table: JobTable) -> None:
        id = client.submit("digits", IMAGE_1, deadline=3600)
        table.deadline_in(id, -1)
        table.sweep()
        with pytest.raises(JobExpired, match=f"job {id}: deadline: the deadline passed"):
            client.result(id, timeout=5)

    def test_one_of_many(self, client, table, store, worker) -> None:
        ids = client.submit_many("digits", np.zeros((2, 2, 2), np.float32))
        first, second = in_order(table.claim(worker))
        finish(table, store, worker, [first], results_of(1))
        table.finish(worker, [failure(second)])
        assert [job.state for job in client.wait(ids, timeout=5)] == ["succeeded", "failed"]
        with pytest.raises(JobFailed, match=ids[1]):
            client.results(ids, timeout=5)

    def test_one_that_still_runs_is_waited_for(self, client: Client, table, worker) -> None:
        id = client.submit("digits", IMAGE_1)
        table.claim(worker)
        with pytest.raises(WaitTimeout, match=f"1 of 1 jobs .* {id}"):
            client.result(id, timeout=0.02)


class TestStatus:
    def test_a_queued_job_names_the_pool_that_nobody_serves(
        self, client: Client, database: Database, table: JobTable
    ) -> None:
        register(database, "far", IMAGE, pool="moon")
        table.worker()  # of another pool
        status = client.status(client.submit("far", IMAGE_1))
        assert (status.state, status.detail) == (
            "queued",
            "waits for a worker: none serves pool 'moon'",
        )

    def test_a_queued_job_counts_those_it_waits_with(self, client: Client, table, worker) -> None:
        ids = client.submit_many("digits", np.zeros((3, 2, 2), np.float32))
        assert client.status(ids[0]).detail == (
            "one of 3 jobs due in pool 'default', served by 1 workers"
        )

    def test_but_not_all_of_very_many(self, client: Client, table, worker, monkeypatch) -> None:
        monkeypatch.setattr("headrace.service._MANY", 2)
        ids = client.submit_many("digits", np.zeros((3, 2, 2), np.float32))
        assert client.status(ids[0]).detail.startswith("one of 2 or more jobs due in pool")

    def test_a_suspect_waits_to_run_alone(self, client: Client, table, worker) -> None:
        ids = client.submit_many("digits", np.zeros((2, 2, 2), np.float32))
        table.worker()
        table.claim(worker)
        table.retire(worker, ids[0])
        assert "served by 1 workers" in client.status(ids[1]).detail
        told = client.status(ids[0]).detail
        assert told.startswith("waits to run alone, for a worker died with it on the device; ")

    def test_a_retry_tells_when_it_is_due(self, client: Client, table, worker) -> None:
        id = client.submit("digits", IMAGE_1)
        table.due_in(id, 60)
        told = client.status(id).detail
        match = re.fullmatch(r"due again in ([0-9.]+) s", told)
        assert match, told
        assert 0 < float(match[1]) <= 60

    def test_a_running_job_tells_its_attempt(self, client: Client, table, worker) -> None:
        id = client.submit("digits", IMAGE_1)
        table.finish(worker, [again(unit, counted=True) for unit in table.claim(worker)])
        table.claim(worker)
        assert client.status(id).detail == "attempt 2 is with a worker"

    def test_a_job_that_succeeded_tells_after_how_many(self, client, table, store, worker) -> None:
        id = client.submit("digits", IMAGE_1)
        finish(table, store, worker, table.claim(worker), results_of(1))
        assert client.status(id).detail == "after 1 attempt"

    def test_the_workers_of_a_pool_are_known(self, service, table, worker) -> None:
        with table.database.write() as connection:
            workers.ready(connection, worker)
        (info,) = service.workers("default")
        assert (info.id, info.device, info.ready_at is None) == (worker, "cpu", False)
        assert service.workers("moon") == []


class TestReplay:
    def test_gives_a_clean_record(
        self, client: Client, table: JobTable, store: ObjectStore, worker: WorkerId
    ) -> None:
        id = client.submit("digits", IMAGE_1, deadline=3600)
        (unit,) = table.claim(worker)
        table.finish(worker, [failure(unit)])
        others = client.submit_many("digits", [IMAGE_1] * 3)
        assert client.replay([id, others[0], JobId("no such job")]) == [id]
        job = client.get(id)
        assert (job.state, job.attempt, job.deaths) == ("queued", 0, 0)
        assert (job.error, job.finished_at, job.started_at, job.deadline) == (None,) * 4
        assert client.replay(id) == []
        claimed = table.claim(worker)
        assert [unit.id for unit in claimed if unit.id != id] == others
        finish(table, store, worker, claimed, results_of(4))
        assert client.result(id)["text"].startswith("№")

    def test_takes_a_new_deadline(self, client: Client, table: JobTable) -> None:
        ids = client.submit_many("digits", [IMAGE_1] * 2)
        client.cancel(ids)
        client.replay(ids[0], deadline=timedelta(minutes=1))
        client.replay(ids[1], deadline=datetime.now(UTC) + timedelta(minutes=1))
        for id in ids:
            deadline = client.get(id).deadline
            assert deadline is not None
            assert 50 < (deadline - datetime.now(UTC)).total_seconds() <= 60
        with pytest.raises(InvalidInput, match="deadline"):
            client.replay(ids, deadline=-1)

    def test_each_is_queued_once_however_many_ask(self, client: Client) -> None:
        ids = client.submit_many("digits", [IMAGE_1] * 60)
        client.cancel(ids)
        with ThreadPoolExecutor(4) as threads:
            shares = list(threads.map(client.replay, [ids, ids[::-1], ids[:40], ids]))
        assert sorted(id for share in shares for id in share) == sorted(ids)


class TestList:
    @pytest.fixture
    def ids(self, client: Client, database: Database) -> list[JobId]:
        register(database, "other", IMAGE)
        ids = [client.submit("digits", IMAGE_1) for _ in range(5)]
        ids.append(client.submit("other", IMAGE_1))
        client.cancel(ids[:2])
        return ids

    def test_pages_through_all_newest_first(self, client: Client, ids: list[JobId]) -> None:
        seen, cursor = [], None
        while True:
            page = client.list(limit=2, cursor=cursor)
            seen += [job.id for job in page.jobs]
            if page.cursor is None:
                break
            cursor = page.cursor
        assert seen == ids[::-1]

    def test_filters(self, client: Client, ids: list[JobId]) -> None:
        def listed(**what: object) -> list[JobId]:
            return [job.id for job in client.list(**what).jobs][::-1]

        now, hour = datetime.now(UTC), timedelta(hours=1)
        assert listed(model="other") == ids[5:]
        assert listed(model="digits@1") == ids[:5]
        assert listed(model="digits@2") == []
        assert listed(state="cancelled") == ids[:2]
        assert listed(code="quarantined") == []
        assert listed(state=["queued", "running"]) == ids[2:]
        assert listed(since=now - hour, until=now + hour) == ids
        assert listed(since=now + hour) == listed(until=now - hour) == []

    @pytest.mark.parametrize(
        ("what", "field"),
        [
            ({"state": "finished"}, "state"),
            ({"limit": 0}, "limit"),
            ({"cursor": "no cursor"}, "cursor"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, client: Client, what: dict, field: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            client.list(**what)
        assert caught.value.field == field
