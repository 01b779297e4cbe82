"""A producer's statements: insert, idempotency keys, cancel, list, wait."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from headrace.db import jobs, views
from headrace.db.engine import Database
from headrace.db.tables import now
from headrace.errors import DatabaseUnavailable
from headrace.job import JobId, JobState, ModelKey, Priority
from tests.conformance.job_table import M1, JobTable, failure, new_id, new_job


class TestInsert:
    def test_a_job_comes_back_as_it_went_in(self, table: JobTable) -> None:
        before = datetime.now(UTC)
        (id,) = table.queue(priority=Priority.HIGH, metadata='{"a": [1]}', pool="gpu-a")
        job = table.get(id)
        assert (job.id, job.model, job.pool, job.state) == (id, M1, "gpu-a", JobState.QUEUED)
        assert (job.priority, job.attempt, job.metadata) == (Priority.HIGH, 0, {"a": [1]})
        assert (job.error, job.result_uri, job.started_at, job.deadline) == (None,) * 4
        assert abs((job.created_at - before).total_seconds()) < 5

    def test_a_retried_insert_changes_nothing(self, table: JobTable) -> None:
        row = new_job()
        table.insert(row)
        worker = table.worker()
        table.run(worker, table.claim(worker))
        table.insert(row, other := new_job())
        assert table.states([row.id, other.id]) == ["succeeded", "queued"]

    def test_a_deadline_may_be_an_instant_or_a_duration(self, table: JobTable) -> None:
        instant, duration = table.insert(
            new_job(deadline=2_000_000_000.5), new_job(deadline_in=100.0)
        )
        assert table.get(instant).deadline == datetime.fromtimestamp(2_000_000_000.5, UTC)
        job = table.get(duration)
        assert job.deadline is not None
        assert abs((job.deadline - job.created_at).total_seconds() - 100) < 0.1

    def test_a_failed_transaction_leaves_nothing(self, table: JobTable) -> None:
        row = new_job()

        def write() -> None:
            with table.database.write() as connection:
                jobs.insert(connection, [row])
                raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            write()
        with table.database.read() as connection:
            assert views.fetch(connection, [row.id]) == {}

    def test_the_clock_is_the_databases(
        self, table: JobTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        (id,) = table.queue()
        assert table.get(id).created_at.year > 2020

    def test_the_clock_goes_on_within_a_transaction(self, database: Database) -> None:
        with database.read() as connection:
            first = connection.execute(sa.select(now())).scalar_one()
            spin_until = time.monotonic() + 0.01
            while time.monotonic() < spin_until:
                pass
            assert connection.execute(sa.select(now())).scalar_one() > first


class TestIdempotencyKeys:
    @staticmethod
    def take(table: JobTable, *keys: tuple[str, str, JobId], tenant: str = ""):
        with table.database.write() as connection:
            return jobs.take_keys(connection, tenant, keys)

    def test_the_first_call_gets_its_own_job(self, table: JobTable) -> None:
        assert self.take(table, ("k", "hash", JobId(a := new_id()))) == {"k": ("hash", a)}

    def test_a_later_call_gets_the_first_ones_job_and_hash(self, table: JobTable) -> None:
        a, b, c = (JobId(new_id()) for _ in range(3))
        self.take(table, ("k", "hash", a))
        held = self.take(table, ("k", "other", b), ("l", "hash", c))
        assert held == {"k": ("hash", a), "l": ("hash", c)}

    def test_tenants_do_not_share_keys(self, table: JobTable) -> None:
        a, b = JobId(new_id()), JobId(new_id())
        self.take(table, ("k", "hash", a), tenant="one")
        assert self.take(table, ("k", "other", b), tenant="two") == {"k": ("other", b)}

    def test_of_many_at_once_all_get_the_same_job(self, table: JobTable) -> None:
        with ThreadPoolExecutor(8) as threads:
            held = list(
                threads.map(lambda _: self.take(table, ("k", "hash", JobId(new_id()))), range(16))
            )
        assert len({job["k"][1] for job in held}) == 1

    def test_thousands_in_one_submission(self, table: JobTable) -> None:
        keys = [(f"k/{n}", "hash", JobId(new_id())) for n in range(2_000)]
        assert self.take(table, *keys) == {key: (digest, id) for key, digest, id in keys}


class TestCancel:
    def test_queued_and_running_jobs_are_cancelled_once(self, table: JobTable) -> None:
        ids = table.queue(2)
        worker = table.worker()
        table.claim(worker)
        (waiting,) = table.queue()
        assert sorted(table.cancel(*ids, waiting)) == sorted([*ids, waiting])
        assert table.states([*ids, waiting]) == ["cancelled"] * 3
        assert table.cancel(*ids, waiting) == []
        assert table.get(waiting).finished_at is not None

    def test_what_has_ended_stays_as_it_is(self, table: JobTable) -> None:
        done, failed = table.queue(2)
        worker = table.worker()
        units = {unit.id: unit for unit in table.claim(worker)}
        table.run(worker, [units[done]])
        table.finish(worker, [failure(units[failed])])
        assert table.cancel(done, failed, JobId(new_id())) == []
        assert table.states([done, failed]) == ["succeeded", "failed"]

    def test_a_cancelled_job_is_never_claimed(self, table: JobTable) -> None:
        table.cancel(*table.queue())
        assert table.claim(table.worker()) == []


class TestPage:
    @staticmethod
    def page(table: JobTable, **what: object) -> list[JobId]:
        with table.database.read() as connection:
            return [job.id for job in views.page(connection, tenant="", **what)]

    def test_newest_first_and_on_from_a_cursor_without_gap_or_repeat(self, table: JobTable) -> None:
        ids = table.queue(25)
        seen: list[JobId] = []
        while part := self.page(table, limit=10, after=seen[-1] if seen else None):
            seen += part
        assert seen == ids[::-1]

    def test_what_comes_in_meanwhile_moves_no_page(self, table: JobTable) -> None:
        ids = table.queue(4)
        first = self.page(table, limit=2)
        table.queue(3)
        assert first + self.page(table, limit=2, after=first[-1]) == ids[::-1]

    def test_filters_by_model_version_and_state(self, table: JobTable) -> None:
        second, other = table.model("m"), table.model("other")
        a, b, c = table.queue(), table.queue(model=second), table.queue(model=other)
        table.cancel(*a)
        assert self.page(table, model="m") == [*b, *a]
        assert self.page(table, model="m", version=2) == b
        assert self.page(table, states=[JobState.CANCELLED]) == a
        assert self.page(table, states=[JobState.QUEUED, JobState.RUNNING]) == [*c, *b]
        assert self.page(table, model="nothing") == []

    def test_filters_by_time_of_submission(self, table: JobTable) -> None:
        (id,) = table.queue()
        at = table.get(id).created_at.timestamp()
        assert self.page(table, since=at - 1, until=at + 1) == [id]
        assert self.page(table, since=at + 1) == []
        assert self.page(table, until=at - 1) == []

    def test_shows_no_other_tenants_jobs(self, table: JobTable) -> None:
        table.queue(tenant="other")
        assert self.page(table) == []


class TestAskingForMany:
    @staticmethod
    def ended(table: JobTable, ids: Sequence[JobId]) -> dict[JobId, JobState]:
        with table.database.read() as connection:
            return views.ended(connection, ids)

    def test_ended_tells_the_terminal_ones_of_twenty_thousand(self, table: JobTable) -> None:
        ids = table.queue(20_000)
        gone = ids[::1000]
        table.cancel(*gone)
        assert self.ended(table, ids) == dict.fromkeys(gone, JobState.CANCELLED)

    def test_ended_knows_every_terminal_state(self, table: JobTable) -> None:
        done, failed, cancelled, expired, running = table.queue(5)
        worker = table.worker()
        units = {unit.id: unit for unit in table.claim(worker)}
        table.run(worker, [units[done]])
        table.finish(worker, [failure(units[failed])])
        table.cancel(cancelled)
        table.deadline_in(expired, -1)
        table.sweep()
        (queued,) = table.queue()
        assert self.ended(table, [done, failed, cancelled, expired, running, queued]) == {
            done: JobState.SUCCEEDED,
            failed: JobState.FAILED,
            cancelled: JobState.CANCELLED,
            expired: JobState.EXPIRED,
        }

    @pytest.mark.parametrize("ids", [[], [JobId(new_id())], [JobId("no uuid")]])
    def test_ids_that_do_not_exist_are_left_out(self, table: JobTable, ids: list[JobId]) -> None:
        table.queue()
        with table.database.read() as connection:
            assert views.ended(connection, ids) == {}
            assert views.fetch(connection, ids) == {}
            assert views.results(connection, ids) == {}
        assert table.cancel(*ids) == []

    def test_backlog_counts_what_is_due_and_what_runs_in_the_pool(self, table: JobTable) -> None:
        later, *_ = table.queue(3)
        table.due_in(later, 60)
        table.queue(2, pool="other")
        one = table.model("one", max_records=1)
        table.queue(2, one, priority=Priority.HIGH)
        table.claim(table.worker())
        with table.database.read() as connection:
            assert views.backlog(connection, "default", 9) == (3, 1)
            assert views.backlog(connection, "default", 2) == (2, 1)


def test_a_server_that_is_not_there_is_unavailable(tmp_path) -> None:
    database = Database(f"postgresql://headrace@/postgres?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable), database.read() as connection:
        views.fetch(connection, [JobId(new_id())])
    database.close()


def test_a_session_that_the_server_ended_is_unavailable_once(postgresql_url: str) -> None:
    database = Database(postgresql_url)

    def idle(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET idle_in_transaction_session_timeout = 1"))
        time.sleep(0.1)
        connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable), database.write() as connection:
        idle(connection)
    assert database.ask(lambda connection: views.ended(connection, [JobId(new_id())])) == {}
    database.close()


def test_postgresql_sends_bytes_as_they_are(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    with database.read() as connection:
        cursor = connection.execute(sa.select(sa.literal(b"input"))).cursor
        assert cursor.pgresult.get_value(0, 0) == b"input"
    database.close()


def test_model_keys_print_as_people_write_them() -> None:
    assert str(ModelKey("digits", 3)) == "digits@3"
