"""A pause holds up the jobs it names and no others, and says why to whoever asks."""

import numpy as np
import pytest

from headrace import Client
from headrace.db.engine import Database
from headrace.errors import InvalidInput, ModelNotFound
from headrace.job import JobId, WorkerId
from tests.conformance.job_table import JobTable
from tests.conformance.registered import IMAGE, register

IMAGE_1 = np.zeros((2, 2), np.float32)


@pytest.fixture
def worker(table: JobTable) -> WorkerId:
    return table.worker()


@pytest.fixture
def jobs(client: Client, database: Database) -> dict[str, JobId]:
    """One job each of digits@1, digits@2 and other@1, the first the most urgent."""
    register(database, "digits", IMAGE)
    register(database, "other", IMAGE)
    return {ref: client.submit(ref, IMAGE_1) for ref in ("digits@1", "digits@2", "other@1")}


def claimed(table: JobTable, worker: WorkerId) -> list[str]:
    found = []
    while units := table.claim(worker):
        found += [str(unit.model) for unit in units]
    return found


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"model": "digits"}, ["other@1"]),
        ({"model": "digits@1"}, ["digits@2", "other@1"]),
        ({"model": "digits@stable"}, ["digits@1", "other@1"]),
        ({"model": "other"}, ["digits@1", "digits@2"]),
        ({"pool": "default"}, []),
    ],
)
def test_what_is_paused_is_not_claimed_until_it_is_resumed(
    client: Client, table: JobTable, worker: WorkerId, jobs, what: dict, left: list[str]
) -> None:
    client.pause(**what)
    assert claimed(table, worker) == left
    assert client.resume(**what)
    assert claimed(table, worker) == [ref for ref in jobs if ref not in left]
    assert not client.resume(**what)


def test_another_pools_pause_holds_up_nobody_here(
    client: Client, database: Database, table: JobTable, worker: WorkerId, jobs
) -> None:
    register(database, "digits", IMAGE, pool="gpu")
    client.pause(pool="gpu")
    assert claimed(table, worker) == list(jobs)


def test_what_is_claimed_runs_on(client: Client, table: JobTable, worker: WorkerId, jobs) -> None:
    units = table.claim(worker)
    client.pause("digits")
    table.run(worker, units)
    assert table.states([unit.id for unit in units]) == ["succeeded"]


def test_a_version_that_is_excluded_is_passed_over_too(
    client: Client, table: JobTable, worker: WorkerId, jobs
) -> None:
    client.pause("digits@1")
    excluded = table.get(jobs["digits@2"]).model
    assert [str(unit.model) for unit in table.claim(worker, excluding=[excluded])] == ["other@1"]


def test_whoever_waits_is_told(client: Client, jobs) -> None:
    client.pause("digits", reason="wrong weights", by="alice")
    client.pause(pool="default", by="bob")
    digits, other = client.status(jobs["digits@1"]), client.status(jobs["other@1"])
    assert digits.detail.startswith("digits is paused since 2")
    assert "UTC by alice: wrong weights; pool:default is paused since" in digits.detail
    assert other.detail.endswith("UTC by bob")


def test_the_list_says_what_by_whom_and_why(client: Client, jobs) -> None:
    assert client.pauses() == []
    assert client.pause("digits@1", reason="first", by="alice") == "digits@1"
    assert client.pause(pool="default") == "pool:default"
    client.pause("digits@1", reason="second", by="carol")
    first, second = client.pauses()
    assert (first.what, first.by, first.reason) == ("digits@1", "carol", "second")
    assert second.what == "pool:default"
    assert "@" in second.by, "without a name it is the user's, and the host's"
    assert first.since < second.since


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"model": "digit"}, ModelNotFound),
        ({"model": "digits@9"}, ModelNotFound),
        ({"pool": "defualt"}, InvalidInput),
        ({"model": "digits", "pool": "default"}, InvalidInput),
        ({}, InvalidInput),
        ({"model": "digits", "reason": "x" * 1001}, InvalidInput),
        ({"model": "digits", "reason": "\0"}, InvalidInput),
    ],
)
def test_a_pause_of_nothing_is_refused(client: Client, what: dict, error: type) -> None:
    with pytest.raises(error):
        client.pause(**what)
    assert client.pauses() == []
