"""Input files in S3: listed, and read range by range under the ETag that was found.

Through the client of `headrace.storage`, so that endpoint, region, retries and credentials are
those of the settings. No file system over S3 that pyarrow brings can say ``If-Match``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from headrace.datasets.files import WILD, InputFile, is_record_file
from headrace.errors import ObjectExists, ObjectMissing, StoreUnavailable
from headrace.settings import Settings
from headrace.storage.s3_client import LazyClient
from headrace.storage.s3_errors import BROKEN, translated


def find(where: str, settings: Settings) -> Iterator[InputFile]:
    """As `files.find`, in the order of the keys."""
    bucket, _, pattern = where.removeprefix("s3://").partition("/")
    literal = min((pattern.index(char) for char in WILD if char in pattern), default=len(pattern))
    prefix, wild = pattern[:literal], literal < len(pattern)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    pages = iter(
        client_of(settings)
        .get()
        .get_paginator("list_objects_v2")
        .paginate(Bucket=bucket, Prefix=prefix)
    )
    while True:
        with translated(bucket, prefix, where):
            page = next(pages, None)
        if page is None:
            return
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if (
                key == pattern
                or (wild and _matches(key.split("/"), pattern.split("/")))
                or (not wild and key.startswith(folder) and is_record_file(key[len(folder) :]))
            ):
                yield InputFile(f"s3://{bucket}/{key}", entry["Size"], entry["ETag"])


def any_in(folder: str, settings: Settings) -> str | None:
    """The name of an object in the folder, if there is any. Raises as `files.find`."""
    at = split(folder)
    with asked(folder):
        found = (
            client_of(settings)
            .get()
            .list_objects_v2(Bucket=at["Bucket"], Prefix=f"{at['Key']}/".lstrip("/"), MaxKeys=1)
        )
    return next((entry["Key"] for entry in found.get("Contents", ())), None)


class Object(io.RawIOBase):
    """An object, read range by range. Reads raise InputChanged, StoreUnavailable, StorageError."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file = file
        self._client = client_of(settings)
        self._tries = settings.s3_retries + 1
        self._object = split(file.uri)
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, as far as the object goes."""
        size = min(len(buffer), self._file.size - self._at)
        if size <= 0:
            return 0
        buffer[:size] = self._get(self._at, size)
        self._at += size
        return size

    def _get(self, start: int, size: int) -> bytes:
        request = {
            **self._object,
            "Range": f"bytes={start}-{start + size - 1}",
            "IfMatch": self._file.tag,
        }
        for tries_left in reversed(range(self._tries)):
            try:
                with asked(self._file.uri):
                    answer = self._client.get().get_object(**request)
                with contextlib.closing(answer["Body"]) as body:
                    data: bytes = body.read()
                return data
            except (ObjectExists, ObjectMissing) as error:
                # The first is how a condition that does not hold is told.
                raise self._file.changed() from error
            except BROKEN as error:
                if not tries_left:
                    raise StoreUnavailable(
                        f"{self._file.uri}: its body broke off: {error}"
                    ) from error
        raise AssertionError("unreachable")


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Whether the names of a path match those of a pattern, of which ``**`` matches any number."""
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[skip:], patterns[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def split(uri: str) -> dict[str, str]:
    """An object's Bucket and Key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def asked(uri: str) -> AbstractContextManager[None]:
    """Turns what boto3 raises about the object into errors of ours."""
    return translated(split(uri)["Bucket"], split(uri)["Key"], uri)


@cache
def client_of(settings: Settings) -> LazyClient:
    """One client for all that has the same settings."""
    return LazyClient(settings)
