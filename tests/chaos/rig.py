"""What a scenario runs on: workers as an operator runs them, over servers that can be broken."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import boto3
import sqlalchemy as sa

from headrace.db import workers
from headrace.db.engine import Database
from headrace.db.migrate import upgrade
from headrace.db.tables import jobs
from headrace.direct import connect
from headrace.errors import HeadraceError
from headrace.registry import golden, versions
from headrace.registry.manifest import Batching, Manifest
from headrace.registry.package import Package, read_package, write_manifest
from headrace.service import Service
from headrace.settings import load_settings
from headrace.signature import Field, Signature
from headrace.storage import open_store
from tests.chaos.places import InS3, OnDisk, Place
from tests.chaos.proxy import Link, link, tcp, unix
from tests.chaos.records import Record
from tests.chaos.servers import Servers
from tests.chaos.worker import ROOT, Worker, alive, send, stands_still
from tests.postgresql import fresh_database

MODEL = "chaos"
LEASE = 3.0
_HANDLER = Path(__file__).with_name("handler.py")
_SITE = Path(__file__).with_name("site")
_SIGNATURE = Signature(
    (Field("n", "int64"), Field("op", "string"), Field("text", "string")),
    (Field("sum", "int64"), Field("text", "string")),
)
BOOT_SECONDS = 120
_COUNTS = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
_T = TypeVar("_T")


class Late(Exception):
    """Something did not come in time. That says nothing of what has come."""


class Rig:
    """A job table, a store and a pool of workers of a scenario's own, on shared servers.

    rng: every choice of a scenario comes from here. short: whether it is to do only as much as
    the test suite has time for. without: the guard that workers lack. settings: what producers
    and judge use; workers differ where `hire` is told so. problems: what a scenario itself found
    wrong. late: what did not come in time.
    """

    def __init__(
        self,
        servers: Servers,
        stack: ExitStack,
        folder: Path,
        seed: int,
        *,
        short: bool,
        without: str | None,
        broker: str,
        database: str,
        store: str,
        pace: float,
        time_limit: float,
        settings: Mapping[str, object],
    ) -> None:
        self.servers = servers
        self.broker = servers.broker(broker)
        self.folder = folder
        self.rng = random.Random(seed)
        self.short = short
        self._without = without
        self.workers: list[Worker] = []
        self.kills = 0
        self.problems: list[str] = []
        self.late: list[str] = []
        self._stack = stack
        self._faults = folder / "faults"
        self._faults.mkdir(parents=True)
        self.pool = f"p{secrets.token_hex(4)}"
        self.settings = {
            "database_url": self._make_database(database),
            "broker_url": self.broker.url,
            "broker_timeout": 0.5,
            "broker_pause": 0.5,
            "store_url": f"s3://chaos/{self.pool}" if store == "s3" else str(folder / "store"),
            "cache_dir": str(folder / "cache"),
            "pool": self.pool,
            "lease": LEASE,
            "poll": 0.5,
            "grace": 30.0,
            # Of the records' sizes, some fit and some do not.
            "inline_input": 200,
            "inline_result": 150,
            **(s3_settings(servers.s3) if store == "s3" else {}),
            **settings,
        }
        self.database = Database(str(self.settings["database_url"]))
        stack.callback(self.database.close)
        self.store = open_store(load_settings(**self.settings))
        package = _package(folder / "package", self.pool, pace, time_limit)
        version = versions.push(self.database, self.store, package)
        self.settings["allow_code"] = list(version.code.values())
        self.model_objects = {f"{version.object_prefix}/{name}" for name in version.files}

    def service(self) -> Service:
        """A producer's, or the judge's."""
        service = connect(**self.settings)
        self._stack.callback(service.close)
        return service

    def place(self, name: str) -> Place:
        """A folder for files of records, where the store is too."""
        if "s3_endpoint" not in self.settings:
            return OnDisk(self.folder / "files" / name)
        client = boto3.client("s3", endpoint_url=self.servers.s3, region_name="us-east-1")
        return InS3(client, "chaos", f"{self.pool}-files/{name}")

    def hire(self, count: int = 1, *, clock: float = 0, **settings: object) -> list[Worker]:
        """Start more workers, with settings of their own; returns when they take work.

        clock: seconds by which the time of day is wrong for them.
        """
        environment = {
            f"HEADRACE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in (self.settings | settings).items()
        }
        environment |= {
            "HEADRACE_TEST_FAULTS": str(self._faults),
            "PYTHONPATH": f"{_SITE}:{ROOT}",
            "CHAOS_CLOCK": str(clock),
            "CHAOS_WITHOUT": self._without or "",
        }
        new = []
        for number in range(len(self.workers), len(self.workers) + count):
            new.append(Worker(self.folder, f"worker{number}", environment))
            self._stack.callback(new[-1].stop)
        self.workers += new
        pids = {worker.pid for worker in new}
        self.until("the workers take work", lambda: self.ready() >= pids, BOOT_SECONDS)
        return new

    def staff(self) -> None:
        """Start workers again whose supervisor is gone."""
        for worker in self.workers:
            if worker.exit_code is not None:
                worker.start()

    def ready(self) -> set[int]:
        """The supervisors whose children take work."""
        with self.database.read() as connection:
            return {w.pid for w in workers.alive(connection, self.pool) if w.ready_at}

    def kill(self, *pids: int | None) -> bool:
        """SIGKILL; whether any of them was there. Returns when they are dead.

        The memory of a large process is freed before its end is seen: until then a dead
        supervisor passes for one that still has its child, and does not mourn it any more.
        """
        killed = [pid for pid in pids if send(signal.SIGKILL, pid)]
        self.kills += len(killed)
        self.until("the killed are dead", lambda: not any(map(alive, killed)))
        return bool(killed)

    def arm(self, point: str, number: signal.Signals) -> None:
        """Whoever reaches the point of `workers.faults` next gets the signal."""
        order = self._faults / f"{point}.new"
        order.write_text(number.name)
        order.rename(self._faults / point)

    def struck(self, point: str) -> int:
        """Wait until somebody got it, and stands still. Their pid. Raises Late."""

        def taken() -> list[Path]:
            return list(self._faults.glob(f"{point}.*.*"))

        try:
            self.until(f"somebody reaches {point!r}", taken)
        finally:
            (self._faults / point).unlink(missing_ok=True)
        (order,) = taken()
        pid = int(order.name.split(".")[1])
        # It takes the order first, and then reads it.
        self.until(f"who reached {point!r} stands still", lambda: stands_still(pid))
        order.unlink()
        return pid

    def until(self, what: str, holds: Callable[[], object], seconds: float = 60) -> None:
        """Wait for it. Raises Late where it does not come in time."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(HeadraceError):
                if holds():
                    return
            if time.monotonic() > end:
                raise Late(f"not within {seconds:g} s: {what}")
            time.sleep(0.02)

    def __str__(self) -> str:
        """The state of things, for whoever has nothing but the output."""
        lines = [f"fault files: {sorted(path.name for path in self._faults.iterdir())}"]
        with contextlib.suppress(HeadraceError), self.database.read() as connection:
            counts = connection.execute(_COUNTS).all()
            lines.append(f"jobs: {', '.join(f'{count} {state}' for state, count in counts)}")
        return "\n".join([*lines, *map(str, self.workers)])

    def hire_behind_links(self) -> list[Link]:
        """A worker with a network of its own to each server."""
        database = sa.make_url(str(self.settings["database_url"]))
        broker = sa.make_url(self.broker.url)
        to_database = self.enter(link(unix(f"{database.query['host']}/.s.PGSQL.5432")))
        to_broker = self.enter(link(tcp(broker.port)))
        links = [to_database, to_broker]
        settings = {
            "database_url": _at(database.difference_update_query(["host"]), to_database),
            "broker_url": _at(broker, to_broker),
        }
        if "s3_endpoint" in self.settings:
            links.append(self.enter(link(tcp(sa.make_url(self.servers.s3).port))))
            settings["s3_endpoint"] = f"http://127.0.0.1:{links[-1].port}"
        self.hire(**settings)
        return links

    def enter(self, context: AbstractContextManager[_T]) -> _T:
        """Something that lasts as long as the rig."""
        return self._stack.enter_context(context)

    def _make_database(self, kind: str) -> str:
        if kind == "postgresql":
            return self._stack.enter_context(fresh_database(self.servers.postgresql.url))
        database = Database(f"sqlite:///{self.folder}/jobs.db")
        upgrade(database)
        database.close()
        return f"sqlite:///{self.folder}/jobs.db"


@contextmanager
def rig(servers: Servers, folder: Path, seed: int, **what: object) -> Iterator[Rig]:
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        yield Rig(servers, stack, folder, seed, **what)


def s3_settings(endpoint: str) -> dict[str, object]:
    return {
        "s3_endpoint": endpoint,
        "s3_region": "us-east-1",
        "s3_retries": 1,
        "s3_connect_timeout": 1.0,
        "s3_read_timeout": 1.0,
    }


def _at(url: sa.URL, way: Link) -> str:
    return url.set(host="127.0.0.1", port=way.port).render_as_string(hide_password=False)


def _package(folder: Path, pool: str, pace: float, time_limit: float) -> Package:
    """pace: seconds that every batch takes."""
    folder.mkdir()
    shutil.copy(_HANDLER, folder / "handler.py")
    with (folder / "handler.py").open("a") as handler:
        handler.write(f"\n\nPACE = {pace}\n")
    batching = Batching(max_records=8, time_limit=time_limit)
    manifest = Manifest(
        MODEL, "python", _SIGNATURE, handler="handler.py", pool=pool, batching=batching
    )
    write_manifest(folder, manifest)
    example = Record(1, "good", "golden")
    golden.write(folder, _SIGNATURE, [(example.inputs, example.right)])
    return read_package(folder)
