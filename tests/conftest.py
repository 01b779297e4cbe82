"""Fixtures that every kind of test may ask for. They import what they need when asked, so
that the unit tests need no server's client."""

import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.rabbitmq import Node


@pytest.fixture
def hangup() -> Iterator[None]:
    """SIGHUP as it is by default, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Redis server. Shared by the session: use names of your own in it."""
    from tests.services import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator["Node"]:
    """A private RabbitMQ node, shared by the session."""
    from tests.rabbitmq import rabbitmq_node

    with rabbitmq_node() as node:
        yield node


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq: "Node") -> str:
    """The same one's URL."""
    return rabbitmq.url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A private PostgreSQL server with a migrated template, shared by the session."""
    from tests.postgresql import make_template, postgresql_server

    with postgresql_server() as server:
        make_template(server)
        yield server


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """A fresh job table in a PostgreSQL database of its own."""
    from tests.postgresql import fresh_database

    with fresh_database(postgresql) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema and no rows; to be copied, never written."""
    from headrace.db.engine import Database
    from headrace.db.migrate import upgrade

    path = tmp_path_factory.mktemp("schema") / "jobs.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture
def database_url(migrated_database: Path, tmp_path: Path) -> str:
    """A fresh job table in a SQLite file."""
    path = tmp_path / "database" / "jobs.db"
    path.parent.mkdir()
    shutil.copy(migrated_database, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private S3 server."""
    from tests.services import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_bucket(s3_endpoint: str) -> Iterator[str]:
    """A bucket, shared by the session: use a prefix of your own in it."""
    from tests.services import s3_bucket

    with s3_bucket(s3_endpoint) as name:
        yield name


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty object store: a folder, or, parametrised indirectly with "s3", a prefix there.

    For the time of the test ``HEADRACE_S3_ENDPOINT`` names its server.
    """
    if getattr(request, "param", "local") == "local":
        return f"file://{tmp_path}/objects"
    bucket = request.getfixturevalue("s3_bucket")
    patch = request.getfixturevalue("monkeypatch")
    patch.setenv("HEADRACE_S3_ENDPOINT", request.getfixturevalue("s3_endpoint"))
    patch.setenv("HEADRACE_S3_REGION", "us-east-1")
    return f"s3://{bucket}/{secrets.token_hex(8)}"
