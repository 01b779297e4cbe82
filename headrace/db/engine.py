"""Opens a database and hands out transactions."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from headrace.errors import ConfigError, DatabaseUnavailable, NotInstalled

_BUSY_SECONDS = 30.0
_CONNECT_SECONDS = 5
_POOL_SIZE, _POOL_OVERFLOW = 5, 10
_PING_SECONDS = 1.0
_RETRIES = (0.05, 0.2, 0.8)
_READ_ONLY = "headrace_read_only"
_T = TypeVar("_T")


class Database:
    """The job table's database. Thread-safe; open one per process.

    patience: seconds that a call waits for a lock, or for a server that does not answer.
    """

    def __init__(self, url: str, *, patience: float = _BUSY_SECONDS) -> None:
        self.engine = _create_engine(url, patience)
        self._local = self.engine.dialect.name == "sqlite"
        # On PostgreSQL a single statement needs no transaction around it, which saves two round
        # trips; so its connections commit by themselves unless they are asked to write several.
        self._readers: sa.Engine = self.engine
        self._writers: sa.Engine = self.engine
        if self._local:
            self._readers = self.engine.execution_options(**{_READ_ONLY: True})
        else:
            self._writers = self.engine.execution_options(isolation_level="READ COMMITTED")
        # SQLite has one writer, and a second one sleeps for milliseconds at a time until it
        # finds the lock free. Threads of one process need not: they can wait for each other.
        self._writer = threading.Lock() if self._local else nullcontext()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """For statements that only read, each on its own. Raises as `write` does."""
        with _translated(), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits at the end, or rolls back.

        Raises DatabaseUnavailable; ConfigError where the schema is not this release's.
        """
        with self._writer, _translated(), self._writers.begin() as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[sa.Connection]:
        """For writes that are one statement each, and so need no transaction around them.

        On PostgreSQL that saves two round trips; SQLite has none to save. Raises as `write`
        does.
        """
        with self.write() if self._local else self.read() as connection:
            yield connection

    @contextmanager
    def detached(self) -> Iterator[Any]:
        """The driver's own connection, outside the pool, closed at the end."""
        pooled = self.engine.raw_connection()
        pooled.detach()
        with closing(pooled):
            yield pooled.dbapi_connection

    def ask(self, question: Callable[[sa.Connection], _T]) -> _T:
        """What `question` reads; asked again where the connection breaks.

        Raises as `write` does.
        """

        def once() -> _T:
            with self.read() as connection:
                return question(connection)

        return retrying(once)

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def retrying(once: Callable[[], _T]) -> _T:
    """Repeat what may be done twice, for a second or so, until the database answers."""
    for pause in _RETRIES:
        with suppress(DatabaseUnavailable):
            return once()
        time.sleep(pause)
    return once()


def _create_engine(url: str, patience: float) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"HEADRACE_DATABASE_URL: {error}") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _create_sqlite(parsed, patience)
        case "postgresql":
            return _create_postgresql(parsed, patience)
        case other:
            raise ConfigError(f"HEADRACE_DATABASE_URL: no support for {other}")


def _create_sqlite(url: sa.URL, patience: float) -> sa.Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    if not url.database or url.database == ":memory:":
        raise ConfigError("HEADRACE_DATABASE_URL: SQLite needs a file that processes can share")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": patience, "isolation_level": None})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_postgresql(url: sa.URL, patience: float) -> sa.Engine:
    try:
        import psycopg  # noqa: F401  # asked for by name, for a better message than SQLAlchemy's
    except ImportError as error:
        raise NotInstalled("psycopg, for PostgreSQL,", "postgresql") from error
    milliseconds = math.ceil(1000 * patience)
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_OVERFLOW,
        pool_timeout=patience,
        connect_args={
            "cursor_factory": _binary_cursor(),
            "connect_timeout": math.ceil(min(_CONNECT_SECONDS, patience)),
            "application_name": "headrace",
            # A server that went away without a word is noticed by the kernel, not by hanging.
            "keepalives_idle": math.ceil(patience / 3),
            "keepalives_interval": math.ceil(patience / 6),
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout={2 * milliseconds}"
            # A plan kept from when the table was small scans it whole when it no longer is.
            " -c plan_cache_mode=force_custom_plan -c jit=off",
        },
    )
    sa.event.listen(engine, "connect", _prepare_postgresql)
    sa.event.listen(engine, "checkin", _note_checkin)
    sa.event.listen(engine, "checkout", _ping_after_idling)
    return engine


def _binary_cursor() -> Any:
    import psycopg

    class BinaryCursor(psycopg.Cursor[Any]):
        """Takes results in PostgreSQL's binary format: bytes as they are, not as hex."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.format = psycopg.pq.Format.BINARY

    return BinaryCursor


def _prepare_postgresql(connection: Any, record: object) -> None:
    """Send arrays in PostgreSQL's binary format: as text, every byte string is escaped."""
    from psycopg.types.array import ListBinaryDumper

    connection.adapters.register_dumper(list, ListBinaryDumper)


def _note_checkin(connection: object, record: Any) -> None:
    record.info["checked_in"] = time.monotonic()


def _ping_after_idling(connection: Any, record: Any, proxy: object) -> None:
    """A connection that the server dropped while it lay in the pool is replaced unseen.

    Pinging every time would cost a round trip per transaction.
    """
    if time.monotonic() - record.info.get("checked_in", time.monotonic()) < _PING_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception as error:
        raise sa.exc.DisconnectionError from error


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    # FULL: a commit survives a power cut, as a durable queue must promise.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Of several processes that open a new file at once, SQLite refuses all but one here.

    It does so without the busy wait that it keeps everywhere else.
    """
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads and then writes fails at once when it was begun deferred,
    # whatever the busy timeout; so every writer takes the write lock first.
    mode = "DEFERRED" if connection.get_execution_options().get(_READ_ONLY) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise _unavailable(error) from error
    except DBAPIError as error:
        cause = error.orig
        absent = isinstance(cause, sqlite3.OperationalError) and "no such" in str(cause)
        if absent or getattr(cause, "sqlstate", None) in _UNDEFINED:
            raise _not_migrated(cause) from error
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            raise _unavailable(cause) from error
        raise


_UNDEFINED = ("42P01", "42703")
"""PostgreSQL's codes for a table and a column that is not there."""


def _unavailable(cause: object) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the job table does not answer: {cause}")


def _not_migrated(cause: object) -> ConfigError:
    return ConfigError(
        f"HEADRACE_DATABASE_URL: its schema is not this release's ({cause}); "
        "run `headrace db upgrade`"
    )
