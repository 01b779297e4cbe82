"""Folders that datasets read from and write to, here or in S3, looked at as any reader would."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Place(Protocol):
    """A folder. uri: what it is called in a dataset."""

    uri: str

    def write(self, name: str, data: bytes) -> None: ...
    def read(self, name: str) -> bytes: ...
    def names(self) -> list[str]:
        """Of all files, sorted."""
        ...


class OnDisk:
    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self._path = path

    def write(self, name: str, data: bytes) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def names(self) -> list[str]:
        return sorted(path.name for path in self._path.glob("*"))


class InS3:
    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{prefix}"
        self._client = client
        self._bucket, self._prefix = bucket, prefix + "/"

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def read(self, name: str) -> bytes:
        found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        return bytes(found["Body"].read())

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        return sorted(
            found["Key"].removeprefix(self._prefix)
            for page in pages
            for found in page.get("Contents", ())
        )
