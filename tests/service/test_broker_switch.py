"""From Redis to RabbitMQ as docs/operations.md says it, with work under way; nothing is lost."""

import os
import sys
from pathlib import Path

from kombu import Connection

from headrace import Client
from headrace.broker import queues
from headrace.db import workers
from headrace.job import JobState
from headrace.stack.process import Process
from tests.service.rig import eventually, rig


def test_the_broker_is_switched_under_load(
    tmp_path: Path, postgresql_url: str, redis_url: str, rabbitmq_url: str
) -> None:
    with rig(tmp_path, postgresql_url, redis_url) as old:
        old.push("slow", max_records=4)
        old.start()
        before = old.submit("slow", range(80), op="sleep 0.03")
        eventually("it is under way", lambda: old.count(JobState.SUCCEEDED) > 8)
        # Workers at the new broker, beside the old ones.
        new = Process(
            "new",
            [sys.executable, "-m", "workers"],
            log=tmp_path / "new.log",
            cwd=Path.cwd(),
            env=os.environ | old.environment() | {"HEADRACE_BROKER_URL": rabbitmq_url},
        )
        try:

            def ready() -> int:
                found = old.database.ask(lambda connection: workers.alive(connection, old.pool))
                return sum(worker.ready_at is not None for worker in found)

            eventually("the new worker is ready", lambda: ready() == 2)
            # Producers there; then what is left of the old side drains.
            shared = {k: v for k, v in old.settings.items() if k in ("database_url", "store_url")}
            with Client(broker_url=rabbitmq_url, **shared) as producer:
                records = [{"op": "sleep 0.01", "value": value} for value in range(40)]
                after = producer.submit_many("slow", records)
                assert old.drain() == 0
                late = producer.submit("slow", {"op": "double", "value": 7})
                ended = producer.wait([*before, *after, late], timeout=60)
            assert {job.state for job in ended} == {JobState.SUCCEEDED}
            assert {job.attempt for job in ended} == {1}
            assert old.committed() == dict.fromkeys([*before, *after, late], 1)
            with Connection(rabbitmq_url) as connection, connection.channel() as channel:
                for queue in queues(old.pool):
                    assert channel.queue_declare(queue.name, passive=True).consumer_count == 1
        finally:
            new.stop(grace=10)
