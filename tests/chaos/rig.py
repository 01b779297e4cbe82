"""What a scenario runs on: workers as an operator runs them, over servers that can be broken."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import sqlalchemy as sa

from headrace.db import workers
from headrace.db.engine import Database
from headrace.db.migrate import upgrade
from headrace.direct import connect
from headrace.errors import HeadraceError
from headrace.registry import golden, versions
from headrace.registry.manifest import Batching, Manifest
from headrace.registry.package import Package, read_package, write_manifest
from headrace.service import Service
from headrace.settings import load_settings
from headrace.signature import Field, Signature
from headrace.stack.process import Process
from headrace.storage import open_store
from tests.chaos.proxy import Link, link, tcp, unix
from tests.chaos.records import Record
from tests.chaos.servers import Servers
from tests.postgresql import fresh_database

ROOT = Path(__file__).resolve().parents[2]
MODEL = "chaos"
LEASE = 3.0
_HANDLER = Path(__file__).with_name("handler.py")
_SITE = Path(__file__).with_name("site")
_SIGNATURE = Signature(
    (Field("n", "int64"), Field("op", "string"), Field("text", "string")),
    (Field("sum", "int64"), Field("text", "string")),
)
_T = TypeVar("_T")


class Worker:
    """A supervisor and its child. `Rig.staff` starts it again, as an operator would."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._environment = environment
        self._processes: list[Process] = []
        self.start()

    def start(self) -> None:
        self._processes.append(
            Process(
                self.name,
                [sys.executable, "-m", "workers"],
                log=self._log,
                cwd=ROOT,
                env=os.environ | self._environment,
            )
        )

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._processes[-1].pid

    @property
    def exit_code(self) -> int | None:
        return self._processes[-1].exit_code

    def child(self) -> int | None:
        """The pid of the process that runs the models; None between two."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                if _alive(child.pid):
                    return child.pid
        return None

    def send(self, number: signal.Signals) -> None:
        """Signal both."""
        for pid in (self.pid, self.child()):
            send(number, pid)

    def drain(self) -> None:
        """Ask it to leave."""
        send(signal.SIGTERM, self.pid if self.exit_code is None else None)

    def stop(self) -> None:
        """Kill it and whatever is left of those before it."""
        sessions = {process.pid for process in self._processes}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in sessions:
                    process.kill()
        for process in self._processes:
            process.stop(grace=0)


class Rig:
    """A job table, a store and a pool of workers of a scenario's own, on shared servers.

    rng: every choice of a scenario comes from here. short: whether it is to do only as much as
    the test suite has time for. without: the guard that workers lack. settings: what producers
    and judge use; workers differ where `hire` is told so. problems: what a scenario itself found
    wrong.
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
            "grace": 10.0,
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
        self.until("the workers take work", lambda: self.ready() >= {w.pid for w in new})
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
        self.until("the killed are dead", lambda: not any(map(_alive, killed)))
        return bool(killed)

    def arm(self, point: str, number: signal.Signals) -> None:
        """Whoever reaches the point of `workers.faults` next gets the signal."""
        order = self._faults / f"{point}.new"
        order.write_text(number.name)
        order.rename(self._faults / point)

    def struck(self, point: str) -> int | None:
        """Wait until somebody got it. Their pid; None where nobody comes there."""
        pattern = f"{point}.*.*"
        self.until(f"somebody reaches {point!r}", lambda: list(self._faults.glob(pattern)))
        (self._faults / point).unlink(missing_ok=True)
        for taken in self._faults.glob(pattern):
            taken.unlink()
            return int(taken.name.split(".")[1])
        return None

    def until(self, what: str, holds: Callable[[], object], seconds: float = 30) -> bool:
        """Wait for it. Where it does not come in time, that is a problem."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(HeadraceError):
                if holds():
                    return True
            if time.monotonic() > end:
                self.problems.append(f"not within {seconds:g} s: {what}")
                return False
            time.sleep(0.02)

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


def send(number: signal.Signals, pid: int | None) -> bool:
    """Signal a process of ours; whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, number)
            return True
    return False


def _alive(pid: int) -> bool:
    """Whether it is there and not just waiting to be reaped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


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
