"""Each check of the doctor sees what it is there to see."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from kombu import Connection, Queue

from headrace import doctor
from headrace.broker import DEAD_LETTERS, queues
from headrace.cli import main
from headrace.dataset import PLANS, SHARDS
from headrace.db import packs, pauses, workers
from headrace.db.engine import Database
from headrace.db.tables import now
from headrace.db.tables import packs as packs_table
from headrace.db.tables import workers as workers_table
from headrace.doctor import Finding, Level, examine
from headrace.job import WorkerId
from headrace.settings import Settings
from headrace.storage import ObjectStore, open_store
from tests.conformance.job_table import JobTable, new_pack

NOBODY = "redis://127.0.0.1:9/0"
OK, WARNING, PROBLEM = Level


def ready(table: JobTable, pool: str = "default") -> WorkerId:
    worker = table.worker(pool)
    with table.database.write() as connection:
        workers.ready(connection, worker)
    return worker


def only(found) -> Finding:
    (finding,) = found
    return finding


class TestDatabase:
    def test_a_schema_of_this_release(self, database: Database) -> None:
        assert only(doctor.check_schema(database)).level is OK

    @pytest.mark.parametrize(
        ("damage", "level", "told"),
        [
            ("DELETE FROM alembic_version", PROBLEM, "lacks the migrations 0001_pre"),
            ("UPDATE alembic_version SET version_num = '9999_pre'", PROBLEM, "newer"),
        ],
    )
    def test_another_schema(self, database: Database, store, damage, level, told) -> None:
        with database.write() as connection:
            connection.execute(sa.text(damage))
        settings = Settings(broker_url=NOBODY, broker_timeout=0.2)
        found = {each.check: each for each in examine(settings, database, store)}
        assert found["database"].level is level
        assert told in found["database"].what
        assert set(found) == {"store", "database", "broker"}, "the rest cannot be looked at"

    def test_none(self, store) -> None:
        settings = Settings(broker_url=NOBODY, broker_timeout=0.2)
        database = Database("postgresql://u:hush@127.0.0.1:9/d")
        found = [each for each in examine(settings, database, store) if each.check == "database"]
        assert only(found).level is PROBLEM
        assert "HEADRACE_DATABASE_URL" in only(found).mend
        assert "hush" not in str(found)

    @pytest.mark.parametrize(
        ("off", "level", "told"), [(0, OK, "s "), (5, WARNING, "ahead"), (-5, WARNING, "behind")]
    )
    def test_the_clock(self, database: Database, monkeypatch, off, level, told) -> None:
        clock = SimpleNamespace(time=lambda: time.time() + off)
        monkeypatch.setattr("headrace.doctor.time", clock)
        finding = only(doctor.check_clock(database))
        assert finding.level is level
        assert told in finding.what


class TestWorkers:
    def test_jobs_that_nobody_serves(self, table: JobTable) -> None:
        assert only(doctor.check_workers(table.database)).level is OK
        table.queue(3, pool="gpu")
        finding = only(doctor.check_workers(table.database))
        assert (finding.level, finding.mend) == (
            PROBLEM,
            "start a worker: `headrace worker --pool gpu`",
        )
        assert "0 of 0 workers ready, 3 jobs due" in finding.what
        worker = table.worker("gpu")
        assert only(doctor.check_workers(table.database)).level is WARNING
        with table.database.write() as connection:
            workers.ready(connection, worker)
        assert only(doctor.check_workers(table.database)).level is OK
        with table.database.write() as connection:
            workers.draining(connection, worker)
        assert only(doctor.check_workers(table.database)).level is WARNING

    def test_a_dataset_waits_for_its_pool_s_workers(self, table: JobTable) -> None:
        (id,) = table.queue(pool="default" + PLANS)
        table.due_in(id, -100_000)
        table.queue(2, pool="default" + SHARDS)
        finding = only(doctor.check_workers(table.database))
        assert (finding.level, "--pool default`" in finding.mend) == (PROBLEM, True)
        assert "pool default: " in finding.what
        assert "0 jobs due, 3 shards or plans of datasets due" in finding.what
        ready(table)
        assert only(doctor.check_workers(table.database)).level is OK
        with table.database.write() as connection:
            pauses.pause(connection, "pool:default", by="me", reason="")
        told = [finding.what for finding in doctor.check_workers(table.database)]
        assert told[0] == "pool default: 1 of 1 workers ready, 0 jobs due"

    def test_a_job_that_waits_for_too_long(self, table: JobTable) -> None:
        ready(table)
        (id,) = table.queue()
        table.due_in(id, -1000)
        finding = only(doctor.check_workers(table.database))
        assert finding.level is WARNING
        assert "the oldest for 1000 s" in finding.what

    def test_what_is_not_due_or_paused_waits_for_nobody(self, table: JobTable) -> None:
        later, late, paused = (*table.queue(2), *table.queue(model=table.model("other")))
        table.due_in(later, 60)
        table.deadline_in(late, -1)
        table.due_in(paused, -1000)
        with table.database.write() as connection:
            pauses.pause(connection, "other", by="me", reason="why not")
        finding, nothing = doctor.check_workers(table.database)
        assert (finding.level, nothing.level) == (WARNING, OK)
        assert "other is paused since" in finding.what
        assert "why not" in finding.what


class TestSweeps:
    def test_nobody_sweeps(self, table: JobTable) -> None:
        table.swept_ago(100)
        assert only(doctor.check_sweeps(table.database, 30)).level is WARNING
        worker = table.worker()
        finding = only(doctor.check_sweeps(table.database, 30))
        assert finding.level is PROBLEM
        assert finding.what == "the last was 100 s ago"
        table.swept_ago(10)
        assert only(doctor.check_sweeps(table.database, 30)).level is OK
        table.lease_in(worker, -100)
        finding = only(doctor.check_sweeps(table.database, 30))
        assert finding.level is PROBLEM
        assert "1 dead workers still hold their jobs" in finding.what

    def test_jobs_and_packs_that_nobody_comes_for(self, table: JobTable) -> None:
        ids = table.queue(2)
        worker = table.worker()
        table.claim(worker)
        table.stage(worker, ids)
        assert only(doctor.check_orphans(table.database)).level is OK
        with table.database.write() as connection:
            connection.execute(sa.update(workers_table).values(stopped_at=1.0))
        jobs, packs = doctor.check_orphans(table.database)
        assert (jobs.level, packs.level) == (PROBLEM, WARNING)
        assert all(id in jobs.what for id in ids)

    def test_packs_that_nobody_removes(self, table: JobTable) -> None:
        """However old they are: it counts since when they are to be removed."""
        pack = new_pack()
        table.stage(table.worker(), table.queue(), pack)
        table.sweep_pack(pack.id)
        for late, level in ((60, OK), (2 * 3600, WARNING)):
            with table.database.write() as connection:
                connection.execute(
                    sa.update(packs_table).values(created_at=1.0, delete_at=now() - late)
                )
            finding = only(doctor.check_orphans(table.database))
            assert finding.level is level
        assert finding.what == "1 packs should have been removed more than an hour ago"


class TestObjects:
    """An object without a row: nobody will ever remove it."""

    @pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
    def test_strays(self, table: JobTable, store: ObjectStore) -> None:
        pack, stray = new_pack(), new_pack()
        table.stage(table.worker(), table.queue(), pack)
        store.put(pack.key, b"known")
        assert only(doctor.check_objects(table.database, store)).level is OK
        store.put(stray.key, b"its row is gone")
        finding = only(doctor.check_objects(table.database, store))
        assert finding.level is WARNING
        assert finding.what == f"1 objects belong to no job, such as {stray.key}"

    def test_one_that_is_removed_meanwhile_is_none(
        self, table: JobTable, store: ObjectStore, monkeypatch
    ) -> None:
        pack = new_pack()
        store.put(pack.key, b"a sweep is about to remove it")
        known = packs.known

        def swept(*what: object) -> set:
            store.delete([pack.key])
            return known(*what)

        monkeypatch.setattr(packs, "known", swept)
        assert only(doctor.check_objects(table.database, store)).level is OK


class TestStore:
    @pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
    def test_one_that_works(self, store_url: str) -> None:
        assert only(doctor.check_store(open_store(store_url))).level is OK

    def test_one_that_does_not(self, database, tmp_path: Path, s3_endpoint, monkeypatch) -> None:
        monkeypatch.setenv("HEADRACE_S3_ENDPOINT", s3_endpoint)
        monkeypatch.setenv("HEADRACE_S3_REGION", "us-east-1")
        (tmp_path / "file").touch()
        settings = Settings(broker_url=NOBODY, broker_timeout=0.2)
        for url in ("s3://headrace-no-such-bucket", str(tmp_path / "file")):
            finding = next(iter(examine(settings, database, open_store(url))))
            assert (finding.check, finding.level) == ("store", PROBLEM)
            assert "HEADRACE_STORE_URL" in finding.mend


class TestBroker:
    def check(self, url: str, pool: str = "doctor", *, served: bool = False) -> list[Finding]:
        settings = Settings(broker_url=url, broker_timeout=2)
        return list(doctor.check_broker(settings, [pool], [pool] if served else []))

    @pytest.mark.parametrize("url", [NOBODY, "amqp://u:hush@127.0.0.1:9//"])
    def test_none(self, database: Database, store, url: str) -> None:
        settings = Settings(broker_url=url, broker_timeout=0.2)
        started = time.monotonic()
        finding = list(examine(settings, database, store))[-1]
        assert time.monotonic() - started < 20
        assert (finding.check, finding.level) == ("broker", PROBLEM)
        assert "HEADRACE_BROKER_URL" in finding.mend
        assert "hush" not in finding.what

    def test_tickets_that_wait_on_redis(self, redis_url: str) -> None:
        with Connection(redis_url) as connection:
            connection.default_channel.client.lpush("headrace.doctor.high", "{}", "{}")
        broker, waiting = self.check(redis_url, served=True)
        assert (broker.level, waiting.level) == (OK, OK)
        assert waiting.what == "pool doctor: 2 tickets wait"

    def test_queues_of_rabbitmq(self, rabbitmq_url: str) -> None:
        with Connection(rabbitmq_url) as connection:
            channel = connection.default_channel
            DEAD_LETTERS(channel).declare()
            DEAD_LETTERS(channel).purge()  # the node is shared
            assert [each.level for each in self.check(rabbitmq_url)] == [OK, OK]
            first, *others = queues("doctor")
            Queue(first.name, queue_arguments={"x-queue-type": "classic"})(channel).declare()
            for queue in others:
                queue(channel).declare()
            _, differs, _ = self.check(rabbitmq_url)
            assert differs.level is PROBLEM
            assert first.name in differs.mend
            channel.queue_delete(first.name)
            levels = [each.level for each in self.check(rabbitmq_url, served=True)]
            assert levels == [OK, *[WARNING] * 3, OK], "nobody listens to any"
            connection.Producer().publish({}, exchange="", routing_key=DEAD_LETTERS.name)
            dead = DEAD_LETTERS(channel)
            while not dead.queue_declare(passive=True).message_count:
                time.sleep(0.01)
            assert self.check(rabbitmq_url)[-1].level is WARNING
            dead.purge()


def test_the_command_says_what_is_wrong_by_its_exit_code(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", str(tmp_path / "objects"))
    monkeypatch.setenv("HEADRACE_BROKER_URL", redis_url)
    healthy = CliRunner().invoke(main, ["doctor"])
    assert (healthy.exit_code, healthy.exception) == (0, None), healthy.output
    table = JobTable(Database(database_url))
    table.queue(2, table.model("m"), pool="gpu")
    ill = CliRunner().invoke(main, ["doctor"])
    assert ill.exit_code == 1
    assert "headrace worker --pool gpu" in ill.stdout
    as_json = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert not as_json["healthy"]
    assert [f["check"] for f in as_json["findings"] if f["level"] == "problem"] == ["workers"]
    table.database.close()
