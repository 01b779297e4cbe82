"""One stack per folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace.errors import StackRunning


class Lock:
    """Held by one process; the kernel lets go of it when that process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, about: Mapping[str, str]) -> None:
        """What others who want the lock are told."""
        text = json.dumps(dict(about)).encode() if about else b""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Lock]:
    """Hold the lock of `directory`. Raises StackRunning with what its holder tells."""
    # Not inherited by children: a lock that outlives its owner would be no use.
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackRunning(str(directory), _read(descriptor)) from None
        lock = Lock(descriptor)
        lock.tell({"pid": str(os.getpid())})
        try:
            yield lock
        finally:
            lock.tell({})
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> dict[str, str]:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # its holder is just writing it
        return {}
    return {str(name): str(value) for name, value in told.items()}
