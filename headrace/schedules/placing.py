"""Small files beside results: written whole, over what was there."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import StoreUnavailable
from headrace.settings import Settings
from headrace.storage.files import appearing


def place(uri: str, data: bytes, kind: str, settings: Settings) -> None:
    """Have `data` be the file at a path or ``s3://bucket/key``. kind: its media type.

    Raises StoreUnavailable, StorageError.
    """
    if uri.startswith("s3://"):
        from headrace.datasets import objects

        with objects.asked(uri):
            objects.client_of(settings).get().put_object(
                **objects.split(uri), Body=data, ContentType=kind
            )
        return
    path = Path(uri.removeprefix("file://"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as file:
            file.write(data)
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
