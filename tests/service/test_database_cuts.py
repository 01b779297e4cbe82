"""Connections to PostgreSQL break under a client and a worker in the middle of their work."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.service.cuts import Cuts, cuts
from tests.service.rig import Rig, rig


@pytest.fixture
def between(postgresql_url: str) -> Iterator[Cuts]:
    url = sa.make_url(postgresql_url)

    def connect() -> socket.socket:
        if url.host:
            return socket.create_connection((url.host, url.port or 5432))
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.path.join(str(url.query["host"]), ".s.PGSQL.5432"))
        return server

    with cuts(connect) as between:
        yield between


@pytest.fixture
def cut_off(tmp_path: Path, postgresql_url: str, redis_url: str, between: Cuts) -> Iterator[Rig]:
    """A worker and a client that reach the database through `between`."""
    whole = sa.make_url(postgresql_url)
    through = whole.set(host="127.0.0.1", port=between.port, query={})
    url = through.render_as_string(hide_password=False)
    with rig(tmp_path, url, redis_url, poll=0.2) as made:
        made.push("echo", max_records=8)
        made.start()
        yield made


def test_every_job_ends_once_with_its_result(
    cut_off: Rig, between: Cuts, postgresql_url: str
) -> None:
    child = cut_off.child()
    between.on = True
    ids = []
    with psycopg.connect(postgresql_url, autocommit=True) as beside:
        for number in range(20):
            ids += cut_off.submit("echo", range(10 * number, 10 * number + 10))
            if number == 10:
                beside.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        results = list(cut_off.client.results(ids, timeout=60))
        between.on = False
        assert [int(result["value"]) for result in results] == list(range(0, 400, 2))
        (rows,) = beside.execute("SELECT count(*) FROM jobs").fetchone()
    assert rows == len(ids), "a submission that was repeated made no second job"
    assert cut_off.committed() == dict.fromkeys(ids, 1)
    # Submissions, claims, stages and finishes.
    for kind in (b"INSERT INTO jobs", b"WITH head", b"WITH lease"):
        for cut in (between.before, between.after):
            assert any(text.startswith(kind) for text in cut), kind
    assert cut_off.child() == child, "the worker that lived through it"
