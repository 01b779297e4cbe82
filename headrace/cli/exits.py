"""What the exit code of a command says; docs/cli.md has the same table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from headrace.errors import HeadraceError, Unavailable, WaitTimeout


class Exit(IntEnum):
    """Every exit code of ``headrace``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    TIMED_OUT = 3
    UNAVAILABLE = 4
    PARTIAL = 5
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.DONE: "done; with `wait` and `result`, every job succeeded; with `run`, every record",
    Exit.FAILED: "an error that stays, or a job that ended without a result",
    Exit.USAGE: "wrong usage: an unknown command, option or value",
    Exit.TIMED_OUT: "`wait` or `result` ran out of time; the jobs go on, wait again",
    Exit.UNAVAILABLE: "a server does not answer; the same command may succeed later",
    Exit.PARTIAL: "`run`: the dataset ran to its end, and some of its records failed",
    Exit.INTERRUPTED: "Ctrl-C",
}


def exit_of(error: HeadraceError) -> Exit:
    """What a command that raised `error` exits with."""
    match error:
        case WaitTimeout():
            return Exit.TIMED_OUT
        case Unavailable():
            return Exit.UNAVAILABLE
    return Exit.FAILED
