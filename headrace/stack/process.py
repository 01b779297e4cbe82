"""One program that runs beside us, in a session of its own, and ends with us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.errors import StackError
from headrace.stack import child

_POLL = 0.02
_TAIL_LINES = 15
_TAIL_BYTES = 8192


class Process:
    """A running program. Its output goes to the end of `log`.

    Its session of its own keeps a terminal's Ctrl-C from it, so that the order in which
    things stop is ours. It is sent SIGTERM when this process dies of whatever cause, and also,
    as Linux has it, when the *thread* that made it ends: make it in one that lives as long.

    stdin: what it reads there; small (it is written at once).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._popen.stdin as pipe:
            pipe.write(stdin)

    @property
    def pid(self) -> int:
        """Also the id of its session and process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it.

        It is left unreaped, so that its pid, and thus its group's id, stays its own until
        `stop` has killed the group.
        """
        if self._popen.returncode is not None:
            return self._popen.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Poll `ready`. Raises StackError if the program ends before, or `timeout` seconds do."""
        deadline = time.monotonic() + timeout
        while True:
            # In this order: what answers may be another's server on our port.
            answers = ready()
            self.check()
            if answers:
                return
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready after {timeout:g} s; {self._said()}")
            time.sleep(_POLL)

    def check(self) -> None:
        """Raises StackError if the program has ended."""
        if self.exit_code is not None:
            raise StackError(f"{self.name} ended with {_cause(self.exit_code)}; {self._said()}")

    def terminate(self) -> None:
        """Ask it to end. Only itself: what it started is its own to stop."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)

    def stop(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ask it to end, and after `grace` seconds, or once `hurry` says so, kill it.

        Whatever is left of its process group goes with it.
        """
        if self._popen.returncode is not None:
            return
        self.terminate()
        deadline = time.monotonic() + grace
        while self.exit_code is None and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL)
        os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def tail(self) -> str:
        """The last lines that it wrote."""
        size = self.log.stat().st_size
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _said(self) -> str:
        tail = self.tail()
        return f"{self.log} ends with:\n{tail}" if tail else f"it wrote nothing to {self.log}"


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"{signal.Signals(-code).name}"
