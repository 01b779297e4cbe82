"""What the tests ask of processes that are not their own children."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

WAIT = 60.0
"""Seconds within which anything must happen, on a busy machine too."""


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Poll until `holds`."""
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT:g} s: {what}"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether nothing runs under `pid` (init may not have buried it yet)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_pids(directory: Path) -> list[int]:
    """The stub worker's pid, and its child's."""
    return [int(pid) for pid in (directory / "worker.pids").read_text().split()]
