"""What the conformance suites run against. A new database or transport joins by a name in
`params`.
"""

import socket
from collections.abc import Iterator

import pytest

from headrace import Client
from headrace.broker import Bell
from headrace.db.engine import Database
from headrace.service import Service
from headrace.settings import Settings
from headrace.storage import ObjectStore, open_store
from tests.conformance.job_table import JobTable
from tests.conformance.registered import IMAGE, INLINE, MAX_INPUT, PAIR, PLAIN, register
from tests.conformance.s3_faults import Proxy, proxy


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh job table."""
    url = {"sqlite": "database_url", "postgresql": "postgresql_url"}[request.param]
    database = Database(request.getfixturevalue(url))
    yield database
    database.close()


@pytest.fixture
def table(database: Database) -> JobTable:
    """The same, with a model ``m@1`` of batches of 64."""
    table = JobTable(database)
    table.model("m")
    return table


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def service(database: Database, store: ObjectStore) -> Service:
    """Over a broker that is not there: a port that nobody listens on."""
    register(database, "digits", IMAGE)
    register(database, "pair", PAIR)
    register(database, "plain", PLAIN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        inline_input=INLINE, max_input=MAX_INPUT, broker_url=f"redis://127.0.0.1:{port}/0"
    )
    return Service(database, store, Bell(settings), settings)


@pytest.fixture(params=["direct"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Client]:
    with Client(transport=service) as client:
        yield client


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 waits a second and more between its tries."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    monkeypatch.setattr(backoff, lambda self, context: 0.0)


@pytest.fixture
def between(s3_endpoint: str) -> Iterator[Proxy]:
    """The S3 server behind faults that a test plans, and that must be met."""
    with proxy(s3_endpoint) as between:
        yield between
    assert not between.unused(), "a fault was planned that nothing met"
