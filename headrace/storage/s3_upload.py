"""Uploads a large file to S3 in parts, several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from headrace.storage.s3_client import md5
from headrace.storage.s3_errors import BROKEN

PART_BYTES = 16 * 1024 * 1024
"""Size of a part, unless that made too many; a smaller file needs no parts."""

_MAX_PARTS = 10_000


def upload(
    client: Any,
    at: Mapping[str, str],
    about: Mapping[str, object],
    path: Path,
    size: int,
    threads: int,
) -> None:
    """Make the object `at` (Bucket and Key) of the first `size` bytes of `path`.

    Nothing is to be seen before the last request, which publishes everything unless the key is
    taken. about: metadata and encryption. threads: parts that are under way, and in memory, at
    once. Raises what boto3 does, and OSError.
    """
    asked = {**at, "UploadId": client.create_multipart_upload(**at, **about)["UploadId"]}
    part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))

    def send(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * part_bytes)
            data = file.read(part_bytes)
        sent = client.upload_part(**asked, PartNumber=number, Body=data, ContentMD5=md5(data))
        return {"PartNumber": number, "ETag": sent["ETag"]}

    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
        client.complete_multipart_upload(**asked, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    except BaseException:
        with contextlib.suppress(ClientError, *BROKEN):
            client.abort_multipart_upload(**asked)
        raise
