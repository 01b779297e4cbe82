"""Servers and workers for the benchmarks: private, durable where production is, and gone after."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.broker import make_app, queues
from headrace.direct import connect
from headrace.registry.package import read_package
from headrace.registry.versions import push
from headrace.service import Service
from headrace.settings import load_settings
from headrace.stack.process import Process
from tests.postgresql import fresh_database, make_template, postgresql_server
from tests.rabbitmq import rabbitmq_server
from tests.services import redis_server, s3_server

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 60.0
_THREADS = {"OMP_NUM_THREADS": "1"}


@dataclass
class Rig:
    """Everything a scenario runs on. brokers: URL by name; stores likewise."""

    directory: Path
    server: str
    brokers: Mapping[str, str]
    stores: Mapping[str, str]
    s3_endpoint: str

    def environment(self, database: str, broker: str, store: str) -> dict[str, str]:
        """HEADRACE_* for these parts."""
        return {
            "HEADRACE_DATABASE_URL": database,
            "HEADRACE_BROKER_URL": self.brokers[broker],
            "HEADRACE_STORE_URL": self.stores[store],
            "HEADRACE_CACHE_DIR": str(self.directory / "cache"),
            "HEADRACE_S3_ENDPOINT": self.s3_endpoint,
            "HEADRACE_S3_REGION": "us-east-1",
        }

    @contextmanager
    def headrace(self, broker: str, store: str, package: Path) -> Iterator[Service]:
        """A fresh job table with the package pushed, and no ticket of an earlier one's.

        Its environment holds inside the block.
        """
        with fresh_database(self.server) as database:
            _forget_tickets(self.brokers[broker])
            environment = self.environment(database, broker, store)
            with environ(environment):
                service = connect()
                try:
                    push(service.database, service.store, read_package(package))
                    yield service
                finally:
                    service.close()

    @contextmanager
    def worker(self, service: Service, count: int = 1, **environment: str) -> Iterator[None]:
        """Headrace workers, ready; drained at the end."""
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(
                    self.process("worker", [sys.executable, "-m", "workers"], environment)
                )
            wait_for(lambda: sum(w.ready_at is not None for w in service.workers()) >= count)
            yield

    @contextmanager
    def celery(self, module: str, environment: Mapping[str, str], *options: str) -> Iterator[None]:
        """A stock Celery worker of `module`, with task events on."""
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "-E", *options]
        command += ["--without-gossip", "--without-mingle", "-l", "WARNING"]
        with self.process(module, command, environment):
            yield

    @contextmanager
    def process(
        self, name: str, command: list[str], environment: Mapping[str, str]
    ) -> Iterator[Process]:
        """A process in the checkout, one torch thread."""
        process = Process(
            name,
            command,
            log=self.directory / f"{name}.log",
            cwd=ROOT,
            env={**os.environ, **_THREADS, **environment},
        )
        try:
            yield process
        finally:
            process.stop(grace=30)


@contextmanager
def rig(directory: Path) -> Iterator[Rig]:
    """Redis, RabbitMQ, PostgreSQL that syncs to disk, a folder, and moto's S3."""
    with ExitStack() as stack:
        server = stack.enter_context(postgresql_server(durable=True))
        make_template(server)
        endpoint = stack.enter_context(s3_server(directory))
        keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
        stack.enter_context(environ(keys))
        _make_bucket(endpoint)
        yield Rig(
            directory,
            server,
            {
                "redis": stack.enter_context(redis_server(directory)),
                "rabbitmq": stack.enter_context(rabbitmq_server()),
            },
            {"local": str(directory / "store"), "s3": "s3://bench/headrace"},
            endpoint,
        )


@contextmanager
def environ(values: Mapping[str, str]) -> Iterator[None]:
    """The environment with these values, inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_for(ready: Callable[[], bool], seconds: float = _READY_SECONDS) -> None:
    """Poll until `ready`. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("a benchmark's worker was not ready in time")
        time.sleep(0.02)


def stats() -> Any:
    """What the one worker that there is says of itself."""
    with make_app(load_settings(), socket_timeout=_READY_SECONDS) as app:
        inspect = app.control.inspect(timeout=5, limit=1)
        # One that has just come may not listen yet.
        while (replies := inspect.stats()) is None:
            pass
        (reply,) = replies.values()
        return reply["pool"]


def _forget_tickets(broker: str) -> None:
    settings = load_settings(broker_url=broker)
    with (
        make_app(settings, socket_timeout=_READY_SECONDS) as app,
        app.connection_for_write() as connection,
    ):
        for queue in queues("default"):
            with suppress(connection.channel_errors), connection.channel() as channel:
                channel.queue_purge(queue.name)


def _make_bucket(endpoint: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="bench")
