"""A supervisor's sign of life, for whoever looks on the same host: systemd, Kubernetes, Docker.

A file, and not a row, for a database that is away is no reason to start a worker anew. Its
supervisor holds a lock on it, so that one that was left behind by a kill is told from one
whose supervisor hangs.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_PREFIX = "headrace-supervisor-"
_UNTIL = struct.Struct("<d")
_SIZE = 1024


class Heartbeat:
    """One supervisor's. seconds: after a beat, how long it counts as alive."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file, path = tempfile.mkstemp(prefix=f"{_PREFIX}{os.getpid()}-")
        self._path = Path(path)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.beat(())

    def beat(self, troubles: Sequence[str]) -> None:
        """It goes round. troubles: what it cannot mend itself."""
        said = "; ".join(troubles).encode()[: _SIZE - _UNTIL.size]
        # On the clock that all processes of a host share, and that nobody sets.
        data = _UNTIL.pack(time.monotonic() + self._seconds) + said
        os.pwrite(self._file, data.ljust(_SIZE, b"\0"), 0)

    def remove(self) -> None:
        """It ends as it should."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def listen() -> list[str]:
    """What is wrong with each supervisor of this user on this host; empty for a healthy one."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        try:
            with path.open("rb") as file:
                if not _held(file.fileno()):
                    path.unlink(missing_ok=True)
                    continue
                data = file.read(_SIZE)
        except OSError:  # gone meanwhile, or another user's
            continue
        (until,) = _UNTIL.unpack_from(data)
        late = time.monotonic() - until
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        trouble = data[_UNTIL.size :].rstrip(b"\0").decode(errors="replace")
        if late > 0:
            trouble = f"it stands still, and has been overdue for {late:.0f} s"
        found.append(f"supervisor {pid}: {trouble}" if trouble else "")
    return found


def _held(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
