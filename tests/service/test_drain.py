"""Signals: a worker leaves in good order, or at once, and nobody's job is blamed for it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.job import JobId
from tests.service.rig import WAIT, Rig, eventually, rig

LEFT = 131


@pytest.fixture(params=["sqlite", "postgresql"])
def worker(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Rig]:
    url = {"sqlite": "database_url", "postgresql": "postgresql_url"}[request.param]
    with rig(tmp_path, request.getfixturevalue(url), redis_url) as worker:
        worker.push("echo", max_records=4)
        yield worker


@pytest.fixture
def local(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Rig]:
    """On SQLite alone: what is tested has to do with processes."""
    with rig(tmp_path, database_url, redis_url) as worker:
        worker.push("echo", max_records=4)
        yield worker


def exit_code(worker: Rig, within: float = WAIT) -> int | None:
    assert worker.process is not None
    eventually("it has left", lambda: worker.process.exit_code is not None, seconds=within)
    return worker.process.exit_code


def unblamed(worker: Rig, ids: list[JobId]) -> bool:
    """Queued as if nobody had ever claimed them."""
    found = map(worker.client.get, ids)
    return {(job.state, job.attempt, job.deaths) for job in found} == {("queued", 0, 0)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_the_running_batch_and_gives_the_rest_back_at_once(
    worker: Rig, number: signal.Signals
) -> None:
    """Also where the signal reaches every process of the service, as from systemd."""
    worker.start()
    worker.client.results(worker.submit("echo", range(8)), timeout=60)  # known to be quick
    with worker.held("echo") as running:
        staged, waiting = worker.submit("echo", range(4)), worker.submit("echo", range(3))
        eventually("a full batch is staged", lambda: set(staged) < set(worker.on_device()))
        eventually("more is claimed", lambda: worker.states(waiting) == {"running": 3})
        assert worker.process is not None
        for pid in (worker.child(), worker.process.pid):
            os.kill(pid, number)
        eventually("what waits is given back", lambda: unblamed(worker, waiting), seconds=8)
        assert worker.states(running) == {"running": 1}
    assert exit_code(worker) == 0
    assert worker.states(running) == {"succeeded": 1}
    assert unblamed(worker, [*staged, *waiting])
    assert "ended with" not in worker.log()


@pytest.mark.parametrize(
    ("numbers", "grace"),
    [([signal.SIGQUIT], 50.0), ([signal.SIGTERM, signal.SIGINT], 50.0), ([signal.SIGTERM], 0.5)],
)
def test_it_leaves_in_the_middle_of_a_batch(
    worker: Rig, numbers: list[signal.Signals], grace: float
) -> None:
    """At SIGQUIT, at a second signal, and at the end of the grace period."""
    worker.settings["grace"] = grace
    worker.start()
    with worker.held("echo") as running:
        assert worker.process is not None
        for number in numbers:
            os.killpg(worker.process.pid, number)  # as a terminal does
            time.sleep(0.2)
        assert exit_code(worker, within=25) == LEFT
    assert unblamed(worker, running)


def test_a_child_that_is_told_alone_is_replaced(local: Rig) -> None:
    local.start()
    first = local.child()
    with local.held("echo") as running:
        os.kill(first, signal.SIGTERM)
    eventually("another one is there", lambda: local.running_child() not in (None, first))
    assert local.states(running) == {"succeeded": 1}
    eventually("it is ready", local.ready)
    second = local.child()
    with local.held("echo") as running:
        os.kill(second, signal.SIGQUIT)
        eventually("a third one", lambda: local.running_child() not in (None, second))
    (job,) = local.client.wait(running, timeout=60)
    assert (job.state, job.deaths) == ("succeeded", 0)
    assert "was told to leave at once" not in local.log()


def test_it_leaves_while_the_broker_is_away_and_while_it_warms_up(
    tmp_path: Path, database_url: str
) -> None:
    with rig(tmp_path, database_url, "redis://127.0.0.1:1/0", broker_timeout=0.5) as worker:
        worker.push("echo")
        worker.start()
        worker.client.results(worker.submit("echo", range(4)), timeout=60)
        os.kill(worker.process.pid, signal.SIGTERM)
        assert exit_code(worker) == 0
        loading = tmp_path / "loading"
        worker.push("slow", loading=loading)
        worker.launch()
        eventually("it warms up", loading.exists)
        os.kill(worker.process.pid, signal.SIGTERM)
        assert exit_code(worker, within=20) == 0
