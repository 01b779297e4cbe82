"""A worker as an operator runs it, and the signals that it gets."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from headrace.stack.process import Process

ROOT = Path(__file__).resolve().parents[2]
_GONE = "gone"
_TAIL = 25
"""Lines of a log that a complaint shows."""


class Worker:
    """A supervisor and its child. `Rig.staff` starts it again, as an operator would."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._environment = environment
        self._processes: list[Process] = []
        self.start()

    def start(self) -> None:
        self._processes.append(
            Process(
                self.name,
                [sys.executable, "-m", "workers"],
                log=self._log,
                cwd=ROOT,
                env=os.environ | self._environment,
            )
        )

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._processes[-1].pid

    @property
    def exit_code(self) -> int | None:
        return self._processes[-1].exit_code

    def child(self) -> int | None:
        """The pid of the process that runs the models; None between two."""
        return next(filter(alive, children(self.pid)), None)

    def send(self, number: signal.Signals) -> None:
        """Signal both."""
        for pid in (self.pid, self.child()):
            send(number, pid)

    def listens(self) -> bool:
        """Whether SIGTERM finds a handler; one that has just been started dies of it."""
        with contextlib.suppress(OSError, ValueError):
            said = Path(f"/proc/{self.pid}/status").read_text()
            (caught,) = (line for line in said.splitlines() if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def drain(self) -> None:
        """Ask it to leave."""
        send(signal.SIGTERM, self.pid if self.exit_code is None else None)

    def stop(self) -> None:
        """Kill it and whatever is left of those before it."""
        sessions = {process.pid for process in self._processes}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in sessions:
                    process.kill()
        for process in self._processes:
            process.stop(grace=0)

    def __str__(self) -> str:
        """What it is at, and the last that it said."""
        ended = "" if self.exit_code is None else f", which ended with {self.exit_code}"
        said = self._log.read_text(errors="replace").splitlines()
        # Celery's banner is longer than what matters.
        told = [line for line in said if not line.lstrip().startswith(("-", ".>"))]
        return (
            f"{self.name}: supervisor {self.pid} ({status(self.pid)}){ended}, child"
            f" {self.child()} ({status(self.child())}); {self._log} ends with:\n"
            + "\n".join(f"  {line}" for line in told[-_TAIL:])
        )


def send(number: signal.Signals, pid: int | None) -> bool:
    """Signal a process of ours; whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, number)
            return True
    return False


def status(pid: int | None) -> str:
    """As the system calls it: ``running``, ``sleeping``, ``stopped``…; ``gone`` without one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if pid is not None:
            return psutil.Process(pid).status()
    return _GONE


def children(pid: int) -> list[int]:
    """Of a process that may be gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def alive(pid: int) -> bool:
    """Whether it is there and not just waiting to be reaped."""
    return status(pid) not in (_GONE, psutil.STATUS_ZOMBIE)


def stands_still(pid: int) -> bool:
    """Whether it does nothing any more: stopped, or dead."""
    return not alive(pid) or status(pid) == psutil.STATUS_STOPPED
