"""A whole process with a stack in it, ended from outside: in order, or at least for good."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import headrace
from headrace.db import workers
from headrace.db.engine import Database
from headrace.stack import Stack
from tests.service.rig import WAIT, eventually
from tests.service.stack.processes import gone, worker_pids


@pytest.mark.usefixtures("hangup")
class TestSignals:
    """A whole process with a stack in it, ended from outside."""

    @pytest.fixture
    def run(self, directory: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []

        def start(*options: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.service.stack.script", str(directory)]
            process = subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,
            )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def started(self, process: subprocess.Popen[str], directory: Path) -> list[int]:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return [*json.loads(line)["pids"].values(), *worker_pids(directory)]

    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    )
    def test_it_ends_in_order(self, run, directory: Path, number: int, code: int) -> None:
        process = run("--workers=1", "--stub=good")
        started = self.started(process, directory)
        os.killpg(process.pid, number)  # as a terminal does: to the whole foreground group
        process.communicate(timeout=WAIT)
        assert process.returncode == code
        assert all(map(gone, started))
        assert (directory / "worker.end").read_text() == "broker answers: True"
        assert not (directory / "headrace.toml").exists()
        assert (directory / ".lock").read_text() == ""

    def test_a_second_signal_hurries_a_stubborn_worker(self, run, directory: Path) -> None:
        process = run("--workers=1", "--stub=stubborn")
        started = self.started(process, directory)
        os.killpg(process.pid, signal.SIGINT)
        begun = time.monotonic()
        while process.poll() is None:
            assert time.monotonic() - begun < WAIT
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
        assert process.returncode == -signal.SIGINT
        eventually("all are gone", lambda: all(map(gone, started)))

    def test_a_signal_during_the_start_ends_it(self, run, directory: Path) -> None:
        process = run("--workers=1", "--stub=never-ready")
        eventually("the worker runs", (directory / "worker.pids").exists)
        eventually("its pids are written", lambda: len(worker_pids(directory)) == 2)
        started = worker_pids(directory)
        process.terminate()
        process.communicate(timeout=WAIT)
        assert process.returncode == 143
        assert all(map(gone, started))
        assert not (directory / "headrace.toml").exists()

    def test_it_ends_when_its_process_is_killed(self, run, directory: Path) -> None:
        process = run("--workers=1", "--stub=good")
        started = self.started(process, directory)
        process.kill()
        process.communicate()
        eventually("all are gone", lambda: all(map(gone, started)))
        # What stays is a settings file, and no lock: the next one starts.
        with Stack(directory, flower=False, workers=0):
            pass

    def test_an_error_in_its_process_ends_it(self, run, directory: Path) -> None:
        process = run("--workers=1", "--stub=good", "--fail")
        started = self.started(process, directory)
        _, errors = process.communicate(timeout=WAIT)
        assert process.returncode == 1
        assert "RuntimeError: half-way" in errors
        assert all(map(gone, started))


class TestRealWorker:
    """As `TestSignals`, with the worker that people run: its supervisor has children too."""

    @pytest.fixture
    def process(self, directory: Path) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.service.stack.script", str(directory)]
        process = subprocess.Popen(
            [*command, "--workers=2", "--flower"], stdout=subprocess.PIPE, text=True
        )
        yield process
        process.kill()
        process.communicate()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_it_is_ready_and_then_gone(self, process, directory: Path, number: int) -> None:
        assert process.stdout is not None
        up = json.loads(process.stdout.readline())
        assert set(up["pids"]) == {"redis", "flower", "worker-1", "worker-2"}
        with headrace.Client(database_url=up["database_url"]) as client:
            assert client.list().jobs == []
        with Database(up["database_url"]).read() as connection:
            ready = [info for info in workers.alive(connection) if info.ready_at is not None]
        assert len(ready) == 2
        started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(started) >= 6, "each worker has at least a process besides its supervisor"
        process.send_signal(number)
        process.communicate(timeout=2 * WAIT)
        eventually("all are gone", lambda: all(map(gone, started)))
