"""Objects in a bucket of S3, or of a server that speaks its protocol.

Every write is conditional on the key's absence (``If-None-Match: *``) and carries the
content's sha256 as metadata. So of two writers one wins, whoever they are, and a writer whose
answer was lost finds by the digest that its first try had succeeded. Some servers ignore the
condition (`rehearse` tells); then the last writer wins. Headrace never writes two contents under
one key, so it is a second lock, not the first.

An upload in parts that a killed process left open is invisible, but paid for, until `tidy` or a
lifecycle rule of the bucket ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import (
    ConfigError,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
)
from headrace.settings import Settings
from headrace.storage import ObjectInfo
from headrace.storage.digests import sha256, sha256_file
from headrace.storage.files import appearing
from headrace.storage.keys import check_key, check_range, is_part
from headrace.storage.s3_client import LazyClient, encryption, md5
from headrace.storage.s3_errors import BROKEN, Conflicting, RangeRefused, refusal, translated
from headrace.storage.s3_upload import PART_BYTES, upload

_DELETE_BATCH = 1000
_CHUNK = 1024 * 1024
_TRIES = 5
_FIRST_PAUSE = 0.05
_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9])(/(?P<prefix>.*))?")
_DIGEST = "sha256"

_T = TypeVar("_T")


class S3Store:
    """An ObjectStore in the bucket, and below the prefix, of ``s3://bucket/prefix``.

    Credentials come from boto3's usual chain. Raises ConfigError where the URL is not one.
    """

    def __init__(self, settings: Settings) -> None:
        self._bucket, self._prefix = _parse(settings.store_url)
        self._client = LazyClient(settings)
        self._encryption = encryption(settings)
        self._threads = settings.io_threads
        self._tries = settings.s3_retries + 1

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def create(self) -> bool:
        """Make the bucket, in the client's region; False where it was there."""
        client = self._client.get()
        with contextlib.suppress(ObjectMissing), translated(self._bucket, self._bucket):
            client.head_bucket(Bucket=self._bucket)
            return False
        with translated(self._bucket, self._bucket):
            region = client.meta.region_name
            # The one region that must not be named is the one that buckets are made in unasked.
            where = {} if region in (None, "us-east-1") else {"LocationConstraint": region}
            client.create_bucket(
                Bucket=self._bucket, **({"CreateBucketConfiguration": where} if where else {})
            )
        return True

    def put(self, key: str, data: bytes) -> str:
        """Store `data` durably, at once or not at all. Returns its sha256.

        Raises ObjectExists if the key is taken by other content.
        """
        at, digest = self._at(key), sha256(data)
        self._create(
            key,
            digest,
            len(data),
            lambda: self._client.get().put_object(
                **at, **self._about(digest), Body=data, ContentMD5=md5(data), IfNoneMatch="*"
            ),
        )
        return digest

    def put_file(self, key: str, path: Path) -> None:
        """Like `put`, streaming from a file of any size. Raises OSError where it is unreadable."""
        at, size = self._at(key), path.stat().st_size
        if size <= PART_BYTES:
            self.put(key, path.read_bytes())
            return
        digest = sha256_file(path)
        if not self._holds(key, digest, size):  # spares the upload; its completion decides
            about, threads = self._about(digest), self._threads
            self._create(
                key,
                digest,
                size,
                lambda: upload(self._client.get(), at, about, path, size, threads),
            )

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` (all the rest if None).

        Raises ObjectMissing; ObjectCorrupt where fewer than `length` bytes are there, or where
        the whole object is read and has not the digest that it was written with.
        """
        check_range(offset, length)
        if offset == 0 and length is None:
            return self._receive(key, {}, partial(_whole, key))
        end = "" if length is None else offset + max(length, 1) - 1
        try:
            data = self._receive(key, {"Range": f"bytes={offset}-{end}"}, partial(_part, offset))
        except RangeRefused:
            data = b""
            size = self._size(key)
        else:
            if length is None or len(data) >= length:
                return data[:length]
            size = offset + len(data)
        if length is None or (length == 0 and offset <= size):
            return data
        raise ObjectCorrupt(
            key, f"{size} bytes long, but bytes {offset} to {offset + length} were wanted"
        )

    def get_file(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears whole or not at all.

        Raises ObjectMissing, and ObjectCorrupt where it has not the digest it was written with.
        """

        def save(answer: dict[str, Any]) -> None:
            digest = hashlib.sha256()
            with appearing(path) as file:
                for chunk in answer["Body"].iter_chunks(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                _check_digest(key, answer, digest.hexdigest())

        try:
            self._receive(key, {}, save)
        except OSError as error:
            raise StoreUnavailable(f"object {key!r}: {error}") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order."""
        for key, found in self._listed("list_objects_v2", "Contents", prefix):
            yield ObjectInfo(key, found["Size"], found["LastModified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        remaining = iter(keys)
        while batch := [self._at(key)["Key"] for key in itertools.islice(remaining, _DELETE_BATCH)]:
            self._delete(batch)

    def tidy(self, age: float, limit: int) -> int:
        """Abort at most `limit` uploads in parts that were begun over `age` seconds ago."""
        before = time.time() - age
        aborted = 0
        for key, begun in self._listed("list_multipart_uploads", "Uploads", ""):
            if aborted == limit:
                break
            if begun["Initiated"].timestamp() < before:
                # One that has gone meanwhile was completed, or another sweep was faster.
                with contextlib.suppress(Conflicting), translated(self._bucket, key):
                    self._client.get().abort_multipart_upload(
                        **self._at(key), UploadId=begun["UploadId"]
                    )
                aborted += 1
        return aborted

    def _listed(
        self, operation: str, field: str, prefix: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a listing of many pages holds in `field`, with its key below the root."""
        root = f"{self._prefix}/" if self._prefix else ""
        pages = iter(
            self._client.get()
            .get_paginator(operation)
            .paginate(Bucket=self._bucket, Prefix=root + prefix)
        )
        while True:
            with translated(self._bucket, prefix):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get(field, ()):
                key = found["Key"][len(root) :]
                if all(map(is_part, key.split("/"))):
                    yield key, found

    def _delete(self, full: Iterable[str]) -> None:
        """Delete up to 1000 objects; those that S3 could not just now are tried again."""
        pause = _FIRST_PAUSE
        for tries_left in reversed(range(_TRIES)):
            with translated(self._bucket, self.url):
                answer = self._client.get().delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": key} for key in full], "Quiet": True},
                )
            errors = [
                refusal(
                    self._bucket,
                    failed.get("Key", ""),
                    failed.get("Code", ""),
                    failed.get("Message", ""),
                )
                for failed in answer.get("Errors", ())
                if failed.get("Code") != "NoSuchKey"
            ]
            if not errors:
                return
            lasting = [error for error in errors if not error.retryable]
            if lasting or not tries_left:
                raise (lasting or errors)[0]
            full = [failed["Key"] for failed in answer["Errors"]]
            pause = _rest(pause)

    def _create(self, key: str, digest: str, size: int, write: Callable[[], object]) -> None:
        """Have `write` make the object, until it is certain that it or another did."""
        pause = _FIRST_PAUSE
        for tries_left in reversed(range(_TRIES)):
            try:
                with translated(self._bucket, key):
                    write()
            except (ObjectExists, Conflicting) as error:
                if self._holds(key, digest, size):
                    return
                if not tries_left:
                    raise StoreUnavailable(f"object {key!r}: {error}") from error
            else:
                return
            pause = _rest(pause)

    def _holds(self, key: str, digest: str, size: int) -> bool:
        """Whether the object is there. Raises ObjectExists where it has other content."""
        try:
            with translated(self._bucket, key):
                head = self._client.get().head_object(**self._at(key))
        except ObjectMissing:
            return False
        if (head["ContentLength"], head["Metadata"].get(_DIGEST)) != (size, digest):
            raise ObjectExists(key, f"is already in {self.url} with other content")
        return True

    def _receive(
        self, key: str, request: dict[str, str], use: Callable[[dict[str, Any]], _T]
    ) -> _T:
        """What `use` makes of the answer; asked again where the connection breaks in the body."""
        at = self._at(key)
        pause = _FIRST_PAUSE
        for tries_left in reversed(range(self._tries)):
            with translated(self._bucket, key):
                answer = self._client.get().get_object(**at, **request)
            try:
                with contextlib.closing(answer["Body"]):
                    return use(answer)
            except BROKEN as error:
                if not tries_left:
                    raise StoreUnavailable(
                        f"object {key!r} in bucket {self._bucket!r}: its body broke off: {error}"
                    ) from error
            pause = _rest(pause)
        raise AssertionError("unreachable")

    def _size(self, key: str) -> int:
        with translated(self._bucket, key):
            size: int = self._client.get().head_object(**self._at(key))["ContentLength"]
        return size

    def _about(self, digest: str) -> dict[str, Any]:
        return {**self._encryption, "Metadata": {_DIGEST: digest}}

    def _at(self, key: str) -> dict[str, str]:
        check_key(key)
        return {
            "Bucket": self._bucket,
            "Key": f"{self._prefix}/{key}" if self._prefix else key,
        }


def _parse(url: str) -> tuple[str, str]:
    """(bucket, prefix). Raises ConfigError, without the URL: it may hold what is secret."""
    match = _URL.fullmatch(url)
    prefix = ((match and match["prefix"]) or "").strip("/")
    if match is None or not all(map(is_part, prefix.split("/") if prefix else ())):
        raise ConfigError(
            "HEADRACE_STORE_URL: expected s3://bucket or s3://bucket/prefix, without credentials "
            "(those come from boto3's usual chain) and without a query"
        )
    return match["bucket"], prefix


def _whole(key: str, answer: dict[str, Any]) -> bytes:
    data: bytes = answer["Body"].read()
    _check_digest(key, answer, sha256(data))
    return data


def _part(offset: int, answer: dict[str, Any]) -> bytes:
    data: bytes = answer["Body"].read()
    # A server may ignore the range and send everything.
    return data if "ContentRange" in answer else data[offset:]


def _check_digest(key: str, answer: dict[str, Any], found: str) -> None:
    recorded = answer["Metadata"].get(_DIGEST)
    if recorded not in (None, found):
        raise ObjectCorrupt(key, f"has sha256 {found}, but was written with {recorded}")


def _rest(pause: float) -> float:
    """Sleep for about `pause` seconds; returns the next, longer one."""
    time.sleep(pause * random.uniform(0.5, 1.5))
    return 2 * pause
