"""Whether the input of a run is there."""

from __future__ import annotations

import enum

from headrace.datasets.files import WILD, find
from headrace.errors import InvalidInput
from headrace.settings import Settings


class Seen(enum.Enum):
    """READY: all that was waited for. EMPTY: that too, and not a file of records."""

    READY = enum.auto()
    EMPTY = enum.auto()
    NOT_YET = enum.auto()


def look(where: str, wait_for: str | int | None, settings: Settings) -> Seen:
    """What there is of the input `where`.

    wait_for: the name of a marker beside the input, such as ``_SUCCESS``; a number of files; None
    for nothing. Raises StoreUnavailable, StorageError.
    """
    if isinstance(wait_for, str) and not _count(folder(where) + wait_for, settings):
        return Seen.NOT_YET
    count = _count(where, settings)
    if isinstance(wait_for, int) and count < wait_for:
        return Seen.NOT_YET
    return Seen.READY if count else Seen.EMPTY


def folder(where: str) -> str:
    """The folder, with a slash, below which everything of the input is."""
    literal = where[: min((where.index(char) for char in WILD if char in where), default=None)]
    if literal == where and not literal.endswith("/") and "." not in literal.rsplit("/", 1)[-1]:
        return literal + "/"
    return literal[: literal.rfind("/") + 1]


def _count(where: str, settings: Settings) -> int:
    try:
        return len(find(where, settings))
    except InvalidInput:
        return 0
