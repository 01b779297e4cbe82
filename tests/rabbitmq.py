"""A private RabbitMQ node, from PATH or where Debian puts it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kombu import Connection

from headrace.errors import StackError
from headrace.stack.process import Process
from headrace.stack.servers import free_port
from tests.services import Server, unavailable

_START_SECONDS = 60
# The wrapper on Debian's PATH changes the user and the environment; this is what it calls.
_DEBIAN = "/usr/lib/rabbitmq/bin/rabbitmq-server"

_CONFIG = """\
loopback_users = none
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
"""


@dataclass(frozen=True)
class Node:
    """server, environment: how to stop and start it, and what its command-line tools need; None
    for one that we did not start.
    """

    url: str
    server: Server | None = None
    environment: dict[str, str] | None = None


@contextmanager
def rabbitmq_server() -> Iterator[str]:
    """The URL of a node."""
    with rabbitmq_node() as node:
        yield node.url


@contextmanager
def rabbitmq_node() -> Iterator[Node]:
    """A node of our own, or the one that ``HEADRACE_TEST_RABBITMQ_URL`` names."""
    named = os.environ.get("HEADRACE_TEST_RABBITMQ_URL")
    if named:
        yield Node(named)
        return
    with own_rabbitmq() as node:
        yield node


@contextmanager
def own_rabbitmq() -> Iterator[Node]:
    """A node with a port mapper of its own."""
    program = _DEBIAN if Path(_DEBIAN).is_file() else shutil.which("rabbitmq-server")
    if program is None:
        unavailable("RabbitMQ", "rabbitmq-server is not installed")
    directory = Path(tempfile.mkdtemp(prefix="headrace-rabbitmq-"))
    port, epmd = free_port(), free_port()
    (directory / "rabbitmq.conf").write_text(_CONFIG)
    (directory / "plugins").write_text("[].")
    environment = os.environ | {
        "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"headrace{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    launch = partial(
        Process,
        "rabbitmq",
        [program],
        log=directory / "rabbitmq.log",
        cwd=directory,
        env=environment,
    )
    url = f"amqp://guest:guest@127.0.0.1:{port}//"
    server = Server(url, launch, partial(_answers, url), launch())
    try:
        try:
            server.process.wait_until(server.ready, _START_SECONDS)
        except StackError as error:
            unavailable("RabbitMQ", error)
        yield Node(url, server, environment)
    finally:
        server.stop(grace=10)
        # The port mapper that the node started is a daemon, and outlives it.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["epmd", "-port", str(epmd), "-kill"], capture_output=True, timeout=5, check=False
            )
        shutil.rmtree(directory, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        with Connection(url, connect_timeout=1) as connection:
            connection.connect()
    except OSError:
        return False
    return True
