"""Output files in S3: multipart uploads that are left open until they are published.

An open upload is seen by nobody, and paid for: those that were never discarded, the bucket's
lifecycle rule (AbortIncompleteMultipartUpload) removes.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from headrace.datasets.objects import asked, client_of, split
from headrace.datasets.outputs import Sealed
from headrace.errors import HeadraceError, ObjectExists, ObjectMissing
from headrace.settings import Settings
from headrace.storage.s3_client import encryption, md5
from headrace.storage.s3_errors import Conflicting
from headrace.storage.s3_upload import PART_BYTES

_TOKEN = "headrace-output"


class Upload:
    """A file that goes up part by part, `PART_BYTES` each. See `outputs.Output`."""

    keeps = True

    def __init__(self, uri: str, settings: Settings) -> None:
        self._uri = uri
        self._client = client_of(settings)
        self._at = split(uri)
        self._token = secrets.token_hex(8)
        self._buffer = bytearray()
        self._parts: list[str] = []
        self._size = 0
        self._sealed = False
        about = {**encryption(settings), "Metadata": {_TOKEN: self._token}}
        with asked(uri):
            answer = self._client.get().create_multipart_upload(**self._at, **about)
        self._upload: str = answer["UploadId"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._sealed:
            with suppress(HeadraceError):
                _abort(self._client, self._uri, self._upload)

    def write(self, data: bytes) -> int:
        """Put bytes behind those that are there; each part goes up once it is full."""
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            self._send(PART_BYTES)
        return len(data)

    def seal(self) -> Sealed:
        """Send what is left."""
        if self._buffer or not self._parts:
            self._send(len(self._buffer))
        self._sealed = True
        return Sealed(self._uri, self._size, self._token, self._upload, tuple(self._parts))

    def _send(self, size: int) -> None:
        part = bytes(self._buffer[:size])
        with asked(self._uri):
            answer = self._client.get().upload_part(
                **self._at,
                UploadId=self._upload,
                PartNumber=len(self._parts) + 1,
                Body=part,
                ContentMD5=md5(part),
            )
        self._parts.append(answer["ETag"])
        self._size += size
        del self._buffer[:size]


def publish(sealed: Sealed, settings: Settings, *, over: bool) -> None:
    """See `outputs.publish`."""
    at, client = split(sealed.uri), client_of(settings)
    parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(sealed.parts, 1)]
    try:
        with asked(sealed.uri):
            client.get().complete_multipart_upload(
                **at,
                UploadId=sealed.upload,
                MultipartUpload={"Parts": parts},
                **({} if over else {"IfNoneMatch": "*"}),
            )
    except (Conflicting, ObjectExists, ObjectMissing) as error:
        # Another was first, or an answer got lost: the object tells whose it is.
        if _is_there(client, sealed):
            return
        if isinstance(error, ObjectExists) or not _is_gone(error):
            raise
        raise sealed.lost() from error


def discard(sealed: Sealed, settings: Settings) -> None:
    """See `outputs.discard`."""
    _abort(client_of(settings), sealed.uri, sealed.upload)


def remove(uri: str, settings: Settings) -> None:
    """See `outputs.remove`."""
    with asked(uri):
        client_of(settings).get().delete_object(**split(uri))


def _abort(client: Any, uri: str, upload: str) -> None:
    at = split(uri)
    try:
        with asked(uri):
            client.get().abort_multipart_upload(**at, UploadId=upload)
    except (Conflicting, ObjectMissing) as error:
        if not _is_gone(error):
            raise


def _is_there(client: Any, sealed: Sealed) -> bool:
    at = split(sealed.uri)
    try:
        with asked(sealed.uri):
            head = client.get().head_object(**at)
    except ObjectMissing:
        return False
    return bool(head["Metadata"].get(_TOKEN) == sealed.token)


def _is_gone(error: BaseException) -> bool:
    """Whether S3 said that there is no such upload."""
    answer = getattr(error.__cause__, "response", {})
    return bool(answer.get("Error", {}).get("Code") == "NoSuchUpload")
