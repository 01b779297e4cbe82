"""What the tests ask of processes that are not their own children."""

from pathlib import Path

import psutil


def gone(pid: int) -> bool:
    """Whether nothing runs under `pid` (init may not have buried it yet)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_pids(directory: Path) -> list[int]:
    """The stub worker's pid, and its child's."""
    return [int(pid) for pid in (directory / "worker.pids").read_text().split()]
