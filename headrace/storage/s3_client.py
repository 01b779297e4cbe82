"""Makes boto3's S3 client from the settings."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from typing import Any

from headrace.errors import ConfigError, NotInstalled
from headrace.settings import Settings

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
except ImportError as missing:
    raise NotInstalled("boto3, for s3:// stores,", "s3") from missing


class LazyClient:
    """One client per process, made at its first use: it is thread-safe, a Session is not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def get(self) -> Any:
        """The client of this process; a fork does not share its parent's connections."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    made = self._made = (os.getpid(), _make(self._settings))
        return made[1]


def md5(data: bytes) -> str:
    """The Content-MD5 header of `data`: the one checksum that every S3 server checks."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def encryption(settings: Settings) -> dict[str, str]:
    """The arguments of a write that ask for server-side encryption."""
    asked = {"ServerSideEncryption": settings.s3_sse, "SSEKMSKeyId": settings.s3_sse_kms_key}
    return {name: value for name, value in asked.items() if value is not None}


def _make(settings: Settings) -> Any:
    config = Config(
        connect_timeout=settings.s3_connect_timeout,
        read_timeout=settings.s3_read_timeout,
        retries={"mode": "standard", "total_max_attempts": settings.s3_retries + 1},
        max_pool_connections=settings.io_threads,
        tcp_keepalive=True,
        s3={"addressing_style": settings.s3_addressing},
        # Newer boto3 adds checksum trailers that many S3-compatible servers refuse; digests of
        # our own, in metadata and Content-MD5, reach all of them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"the S3 client of HEADRACE_STORE_URL: {error}") from error
    client.meta.events.register("before-sign.s3.DeleteObjects", _use_md5)
    return client


def _use_md5(request: Any, **_: object) -> None:
    """Give DeleteObjects, which must have a checksum, the one that every server knows."""
    for name in list(request.headers):
        if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-")):
            del request.headers[name]
    body = request.data
    request.headers["Content-MD5"] = md5(body.encode() if isinstance(body, str) else body)
