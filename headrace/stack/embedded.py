"""`Stack`: what `headrace up` starts and stops."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

import headrace
from headrace.db import migrate, workers
from headrace.db.engine import Database
from headrace.errors import ConfigError
from headrace.settings import Settings, load_settings
from headrace.stack.interrupts import Interrupts
from headrace.stack.lock import locked
from headrace.stack.process import Process
from headrace.stack.servers import Redis, flower_command, flower_ready, on_free_port

_HEAD = "# Written by `headrace up`, and removed when it ends. Changes are lost.\n"
_GRACE = 5.0
_WATCH = 0.5


class Stack:
    """Redis, Flower and `workers` workers of `pool`, each on all of `devices`, in a ``with`` block.

    directory: holds the job table, the store, logs/, and while it runs headrace.toml, which
    gives every command started beside it these settings. Jobs and results stay there.
    timeout: seconds that each part has to become ready (a worker loads its models first).

    SIGTERM, SIGHUP and Ctrl-C end the block as exceptions; a second one kills what still
    stops. Raises StackRunning, StackError, NotInstalled, ConfigError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        flower: bool = True,
        workers: int = 1,
        devices: Sequence[str] = ("cpu",),
        pool: str = "default",
        timeout: float = 120.0,
    ) -> None:
        self.directory = Path(os.path.abspath(directory))
        self.pool = pool
        self.flower_url: str | None = None
        self.processes: dict[str, Process] = {}
        self._wanted_flower = flower
        self._wanted_workers = workers
        self._devices = tuple(dict.fromkeys(devices))
        self._timeout = timeout
        self._settings: dict[str, str] = {}
        self._environment: dict[str, str] | None = None
        self._interrupts = Interrupts()
        self._undo = contextlib.ExitStack()

    @property
    def settings(self) -> dict[str, Any]:
        """What `headrace.Client` takes, by name, to reach this stack."""
        return dict(self._settings)

    def about(self) -> dict[str, str]:
        """Whose it is, and addresses by name: what a second stack in this folder is told."""
        flower = {} if self.flower_url is None else {"Flower": self.flower_url}
        return {"pid": str(os.getpid())} | flower

    def wait(self) -> None:
        """Return never, but raise StackError when a part has died."""
        while True:
            for process in self.processes.values():
                process.check()
            time.sleep(_WATCH)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context(locked(self.directory))
            undo.enter_context(self._interrupts)
            self._start(undo)
            lock.tell(self.about())
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interrupts.leave()
        self._undo.__exit__(kind, error, traceback)
        self.processes.clear()

    def worker_command(self) -> list[str]:
        """Runs one worker, which reads its settings from the environment."""
        return [sys.executable, "-m", "workers", *(f"--device={name}" for name in self._devices)]

    def _start(self, undo: contextlib.ExitStack) -> None:
        """What is started later is stopped earlier: workers, then Flower, then Redis."""
        (self.directory / "logs").mkdir(exist_ok=True)
        redis = Redis()
        _, port = on_free_port(
            lambda port: self._run(
                undo, "redis", [redis.program, "-"], cwd=self.directory, stdin=redis.config(port)
            ),
            redis.ready,
            self._timeout,
        )
        self._settings = {
            "database_url": f"sqlite:///{self.directory}/jobs.db",
            "broker_url": redis.url(port),
            "store_url": f"file://{self.directory}/store",
            "pool": self.pool,
        }
        settings = load_settings(**self._settings)
        self._environment = _environment(settings)
        database = Database(settings.database_url)
        undo.callback(database.close)
        migrate.upgrade(database)
        undo.enter_context(_config_file(self.directory / "headrace.toml", self._settings))
        if self._wanted_flower:
            _, port = on_free_port(
                lambda port: self._run(undo, "flower", flower_command(port)),
                flower_ready,
                self._timeout,
            )
            self.flower_url = f"http://127.0.0.1:{port}"
        if self._wanted_workers:
            self._start_workers(undo, database, settings.grace + _GRACE)

    def _start_workers(self, undo: contextlib.ExitStack, database: Database, grace: float) -> None:
        # Those of an earlier stack in this folder may hold their leases for some seconds yet.
        strangers = _ready(database)
        started = [
            self._run(undo, f"worker-{i}", self.worker_command(), grace=grace)
            for i in range(1, self._wanted_workers + 1)
        ]
        undo.callback(_terminate_all, started)
        for count, process in enumerate(started, start=1):
            # A worker is a process, and holds a lease, for each of its devices.
            leases = count * len(self._devices)
            process.wait_until(partial(_arrived, database, strangers, leases), self._timeout)

    def _run(
        self,
        undo: contextlib.ExitStack,
        name: str,
        command: list[str],
        *,
        cwd: Path | None = None,
        grace: float = _GRACE,
        stdin: bytes = b"",
    ) -> Process:
        # A signal between the start and the note of it would leave the process behind.
        with self._interrupts.held():
            process = Process(
                name,
                command,
                log=self.directory / "logs" / f"{name}.log",
                cwd=cwd or _checkout(),
                env=self._environment,
                stdin=stdin,
            )
            undo.callback(process.stop, grace, self._interrupts.hurry)
            self.processes[name] = process
        return process


def _environment(settings: Settings) -> dict[str, str]:
    """Ours with all of `settings`, so that no settings file where a child runs can differ.

    Without what Flower would take for its own options.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    values = settings.model_dump(mode="json", exclude_none=True)
    values["cache_dir"] = os.path.abspath(settings.cache_dir)
    for name, value in values.items():
        env[f"HEADRACE_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return env | {"PYTHONUNBUFFERED": "1"}


def _checkout() -> Path:
    """The folder that holds ``tasks`` and ``workers``, which the wheel does not ship."""
    root = Path(headrace.__file__).resolve().parents[1]
    if not (root / "workers" / "__init__.py").is_file():
        raise ConfigError(
            "the embedded stack runs from Headrace's checkout or image: the installed package "
            "holds no worker"
        )
    return root


def _ready(database: Database) -> set[str]:
    with database.read() as connection:
        return {info.id for info in workers.alive(connection) if info.ready_at is not None}


def _arrived(database: Database, strangers: set[str], count: int) -> bool:
    return len(_ready(database) - strangers) >= count


def _terminate_all(processes: list[Process]) -> None:
    for process in processes:
        process.terminate()


@contextlib.contextmanager
def _config_file(path: Path, settings: Mapping[str, str]) -> Iterator[None]:
    """Have `path` hold `settings` in this block; readable by its owner alone (a password)."""
    if path.exists() and not path.read_text().startswith(_HEAD):
        raise ConfigError(f"{path} is not the stack's to overwrite; choose another folder")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(_HEAD + tomli_w.dumps(settings))
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
