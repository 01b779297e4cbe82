"""The demo as a person runs it: right, gone when it ends, and loud when something is wrong."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import headrace
from headrace.errors import NotInstalled
from headrace.stack.servers import find_redis
from tests.services import unavailable

DEMO = [sys.executable, "-m", "examples.digits.demo", "--directory"]
PLANTED = """
import sys
import examples.digits.demo as demo
stored_results = demo.stored_results
demo.train = lambda digits: demo_network().eval()
from examples.digits.train import Network as demo_network
def planted(*args):
    entries = list(stored_results(*args))
    return [*entries[1:], entries[1]]
demo.stored_results = planted
demo.main()
"""


@pytest.fixture(autouse=True)
def needs_redis() -> None:
    try:
        find_redis()
    except NotInstalled as error:
        unavailable("the demo", error)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*DEMO, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def read_to(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"no line with {word!r}: {process.communicate()[1]}")


def test_the_demo(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    read_to(demo, "Registered digits@1")
    started = descendants(demo.pid)
    out, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    assert all_gone(started)
    assert "jobs done        899 of 899" in out
    assert float(re.search(r"accuracy +([\d.]+)%", out)[1]) >= 97
    assert re.search(r"throughput +[\d,]+ jobs/s", out)
    assert float(re.search(r"mean batch size +([\d.]+)", out)[1]) > 8
    assert "Flower           http://127.0.0.1:" in out
    assert "All 899 results equal those of a direct run; each is stored exactly once." in out
    assert "899/899" in errors, "the progress bar"
    with headrace.Client(
        database_url=f"sqlite:///{tmp_path}/jobs.db", store_url=str(tmp_path / "store")
    ) as client:
        page = client.list(limit=5)
        results = client.results([job.id for job in page.jobs])
    assert [result["logits"].shape for result in results] == [(10,)] * 5


def test_a_planted_fault_fails_it_and_names_the_jobs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PLANTED, "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if "in the store" in line]
    assert len(lines) == 2
    assert sorted(re.search(r"store (\d)", line)[1] for line in lines) == ["0", "2"]
    assert all(re.match(r"job [0-9a-f-]{36}: ", line) for line in lines)
    assert "demo: 2 faults" in ended.stderr


def test_ctrl_c_leaves_nothing_running(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    read_to(demo, "Registered")
    started = descendants(demo.pid)
    assert len(started) >= 3
    time.sleep(0.2)  # somewhere in the middle of the jobs
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert all_gone(started)
    assert not (tmp_path / "headrace.toml").exists()
