"""What a key and a range may look like, the same in every store. Pure."""

from __future__ import annotations

import re

MAX_KEY = 1024
"""Longest key, in characters (S3's limit)."""
MAX_PART = 200
"""Longest part of a key between two slashes (a file name has 255 bytes, some for a suffix)."""

_PART = re.compile(r"[A-Za-z0-9._=@-]+")


def is_part(part: str) -> bool:
    """Whether `part` may stand between two slashes of a key."""
    return len(part) <= MAX_PART and part not in (".", "..") and _PART.fullmatch(part) is not None


def check_key(key: str) -> tuple[str, ...]:
    """The parts of `key`. Raises ValueError where it is no key, so that none leaves the store."""
    parts = tuple(key.split("/"))
    if len(key) > MAX_KEY or not all(map(is_part, parts)):
        raise ValueError(
            f"{key[:MAX_KEY]!r} is no object key: up to {MAX_KEY} characters, parts of up to "
            f"{MAX_PART} letters, digits and ._=@- joined by slashes, none of them . or .."
        )
    return parts


def check_range(offset: int, length: int | None) -> None:
    """Raises ValueError where the two are no range of bytes."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset {offset} and length {length} count bytes from the start")
