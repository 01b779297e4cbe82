"""What a supervisor from outside sees of a worker, and what ours does about one that grows."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.rig import Rig, eventually, rig
from workers.supervisor import resident

MIB = 1 << 20


@pytest.fixture
def worker(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Rig]:
    with rig(tmp_path, database_url, redis_url) as worker:
        worker.push("echo", max_records=4)
        yield worker


def says(worker: Rig, command: str) -> tuple[int, str]:
    """As a probe runs it, beside the worker."""
    done = subprocess.run(
        [sys.executable, "-c", "from headrace.cli import main; main()", "workers", command],
        env=os.environ | worker.environment() | {"TMPDIR": str(worker.folder)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_probes_tell_live_from_ready(worker: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(worker.folder))
    assert says(worker, "live") == (1, "Error: no supervisor runs here\n")
    loading = worker.folder / "loading"
    worker.push("slow", loading=loading)
    worker.launch()
    eventually("it warms up", loading.exists)
    assert says(worker, "live") == (0, "1 alive\n")
    assert "cpu is warming up" in says(worker, "check")[1]
    assert worker.drain() == 0
    assert says(worker, "live")[0] == 1


def test_one_that_drains_is_live_and_not_ready(
    worker: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(worker.folder))
    worker.start()
    assert says(worker, "check")[0] == 0
    with worker.held("echo"):
        os.kill(worker.child(), signal.SIGTERM)
        eventually("it drains", lambda: "is draining" in says(worker, "check")[1])
        assert says(worker, "live") == (0, "1 alive\n")


@pytest.mark.parametrize(("share", "deaths"), [(0.95, 0), (2.0, 1)])
def test_a_worker_that_grows_is_replaced(worker: Rig, share: float, deaths: int) -> None:
    """Near its bound between two batches; over it at once, and what it ran is suspect."""
    worker.start()
    used = resident(worker.child())
    assert worker.drain() == 0
    limit = used + 400 * MIB
    worker.settings["worker_memory"] = limit
    worker.start()
    first = worker.child()
    flag = worker.folder / "grown"
    grow = int(share * limit) - used
    (greedy,) = worker.submit("echo", [1], op=f"grow-once {grow} {flag}")
    job = worker.client.wait(greedy, timeout=60)
    assert (job.error, job.deaths) == (None, deaths)
    eventually("another one is there", lambda: worker.running_child() not in (None, first))
    assert "HEADRACE_WORKER_MEMORY" in worker.log()
    assert ("was killed because it has grown" in worker.log()) == (deaths == 1)
