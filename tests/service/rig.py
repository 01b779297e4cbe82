"""A worker as an operator runs it, over a job table, a store and a broker of the test's own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import sqlalchemy as sa

from headrace import Client
from headrace.db import workers
from headrace.db.engine import Database
from headrace.db.tables import packs
from headrace.db.tables import workers as workers_table
from headrace.job import JobId, JobState
from headrace.registry import golden, versions
from headrace.registry.manifest import Batching, Manifest
from headrace.registry.package import Package, read_package, write_manifest
from headrace.settings import load_settings
from headrace.signature import Field, Signature
from headrace.stack.process import Process
from headrace.storage import open_store
from headrace.storage.packs import scan

HANDLER = Path(__file__).with_name("echo_handler.py")
SIGNATURE = Signature(
    (Field("op", "string"), Field("value", "int64")),
    (Field("value", "int64"), Field("size", "int64"), Field("note", "string")),
)


WAIT = 60.0
"""Seconds within which anything must happen, on a busy machine too."""


def eventually(what: str, holds: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def package(folder: Path, name: str, files: Mapping[str, str], **batching: object) -> Package:
    """The echo model under a name of its own, with files that tell its handler what to do."""
    folder.mkdir(parents=True)
    shutil.copy(HANDLER, folder / "handler.py")
    # A package's code is its own: another name, another digest.
    (folder / "handler.py").open("a").write(f"\n# {name}\n")
    for file, text in files.items():
        (folder / file).write_text(text)
    manifest = Manifest(
        name,
        "python",
        SIGNATURE,
        handler="handler.py",
        files=tuple(files),
        batching=Batching(**batching),
    )
    write_manifest(folder, manifest)
    golden.write(
        folder,
        SIGNATURE,
        [({"op": "double", "value": 21}, {"value": 42, "size": 1, "note": "double"})],
    )
    return read_package(folder)


class Rig:
    """One supervisor with one worker, and a client."""

    def __init__(
        self, folder: Path, database_url: str, broker_url: str, **settings: object
    ) -> None:
        self.folder = folder
        self.pool = f"p{secrets.token_hex(4)}"
        self.settings = {
            "database_url": database_url,
            "broker_url": broker_url,
            "store_url": str(folder / "store"),
            "cache_dir": str(folder / "cache"),
            "pool": self.pool,
            "lease": 3.0,
            "poll": 0.2,
            "grace": 10.0,
            **settings,
        }
        self.allowed: list[str] = []
        self.database = Database(database_url)
        self.client = Client(
            **{
                name: value
                for name, value in self.settings.items()
                if name.startswith(("database", "broker", "store"))
            }
        )
        self.store = open_store(load_settings(store_url=self.settings["store_url"]))
        self.process: Process | None = None

    def push(
        self,
        name: str,
        *,
        allow: bool = True,
        explode: bool = False,
        loading: Path | None = None,
        **batching: object,
    ):
        """Push the echo model, in this rig's pool.

        explode: it does not load. loading: it takes a minute to load, and then this file is there.
        """
        files = {"explode": ""} if explode else {"slow": str(loading)} if loading else {}
        made = package(self.folder / "packages" / name, name, files, **batching)
        return self.push_package(made.root, allow=allow)

    def push_package(self, folder: Path, *, allow: bool = True):
        """Push the package in a folder, in this rig's pool."""
        toml = folder / "model.toml"
        toml.write_text(toml.read_text().replace('pool = "default"', f'pool = "{self.pool}"'))
        version = versions.push(self.database, self.store, read_package(folder))
        if allow:
            self.allowed += version.code.values()
        return version

    def environment(self) -> dict[str, str]:
        """The worker's settings."""
        said = self.settings | {"allow_code": self.allowed}
        return {
            f"HEADRACE_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
            for key, value in said.items()
        }

    def start(self) -> None:
        """Start the worker and wait until it is warm."""
        self.launch().wait_until(self.ready, WAIT)

    def launch(self) -> Process:
        """Start the worker."""
        self.process = Process(
            "worker",
            [sys.executable, "-m", "workers"],
            log=self.folder / "worker.log",
            cwd=Path.cwd(),
            env=os.environ | self.environment(),
        )
        return self.process

    def ready(self) -> bool:
        with self.database.read() as connection:
            return any(worker.ready_at for worker in workers.alive(connection, self.pool))

    def child(self) -> int:
        """The pid of the process that runs the models."""
        assert self.process is not None
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid

    def running_child(self) -> int | None:
        """Likewise; None between two."""
        assert self.process is not None
        return next((c.pid for c in psutil.Process(self.process.pid).children()), None)

    def stop(self) -> None:
        """Kill what still runs."""
        if self.process is not None and self.process.exit_code is None:
            for child in psutil.Process(self.process.pid).children():
                child.kill()
        if self.process is not None:
            self.process.stop(grace=0)
        self.client.close()
        self.database.close()

    def drain(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGTERM)
        eventually("the worker has drained", lambda: self.process.exit_code is not None)
        return self.process.exit_code

    def submit(self, model: str, values: Sequence[int], op: str = "double", **what: object):
        return self.client.submit_many(
            model, [{"op": op, "value": value} for value in values], **what
        )

    @contextmanager
    def held(self, model: str) -> Iterator[list[JobId]]:
        """A batch of one that the model runs for as long as the block lasts."""
        release = self.folder / f"release-{secrets.token_hex(4)}"
        ids = self.submit(model, [0], op=f"until {release}")
        # What is named on the device may still be given back.
        eventually("the model runs it", release.with_name(f"{release.name}.begun").exists)
        try:
            yield ids
        finally:
            release.touch()

    def states(self, ids: Sequence[JobId]) -> Counter[str]:
        return Counter(str(self.client.get(id).state) for id in ids)

    def on_device(self) -> list[JobId]:
        """What the worker has written down as being there."""
        named = sa.select(workers_table.c.on_device).where(workers_table.c.stopped_at.is_(None))
        with self.database.read() as connection:
            return [id for row in connection.execute(named).scalars() for id in json.loads(row)]

    def count(self, state: JobState) -> int:
        """How many jobs are in `state`."""
        return len(self.client.list(state=state, limit=1000).jobs)

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def committed(self) -> Counter[str]:
        """How often each job has a result in a pack that counts, as the objects tell it."""
        with self.database.read() as connection:
            keys = connection.execute(sa.select(packs.c.key).where(packs.c.state == "live"))
            live = list(keys.scalars())
        return Counter(id for key in live for id, _ in scan(self.store.get(key), key))


@contextmanager
def rig(folder: Path, database_url: str, broker_url: str, **settings: object) -> Iterator[Rig]:
    made = Rig(folder, database_url, broker_url, **settings)
    try:
        yield made
    finally:
        made.stop()
