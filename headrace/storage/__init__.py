"""Object stores: immutable objects under slash-separated keys.

`ObjectStore` is the contract; `local` (a folder) and `s3` (a bucket) implement it, and
`open_store` picks the implementation by URL. `packs` puts many results into one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.settings import Settings


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """key: below the store's root. size: bytes. modified: Unix seconds, the store's clock."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """Holds immutable objects. Thread-safe. Every call may raise StoreUnavailable.

    Keys match ``[A-Za-z0-9._=@-]+(/[A-Za-z0-9._=@-]+)*`` and have no ``.`` or ``..`` part;
    others raise ValueError.
    """

    @property
    def url(self) -> str:
        """Where the store is; an object's URI is this, a slash, and its key."""
        ...

    def create(self) -> bool:
        """Make the bucket or folder; False where it was there."""
        ...

    def put(self, key: str, data: bytes) -> str:
        """Store `data` durably, at once or not at all. Returns its sha256 (hex).

        Raises ObjectExists if the key is taken by other content. The same content is done
        already: a put whose answer was lost may be repeated. After StoreUnavailable the object
        may be there or not.
        """
        ...

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` (all the rest if None).

        Raises ObjectMissing, and ObjectCorrupt where fewer than `length` bytes are there, or
        where the store kept a digest and the whole object does not fit it.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Like `put`, streaming from a file of any size; returns nothing."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears whole or not at all."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        ...

    def tidy(self, age: float, limit: int) -> int:
        """End at most `limit` writes that began over `age` seconds ago; returns how many.

        What their killed writers left is no object, and nobody sees it, but it takes up space.
        """
        ...


def open_store(where: Settings | str) -> ObjectStore:
    """The store of the settings, or at a URL: ``s3://bucket/prefix``, ``file:///folder``, a path.

    Of a URL alone, the rest is taken from this process's settings. Raises ConfigError;
    NotInstalled where ``headrace[s3]`` is needed.
    """
    url = where if isinstance(where, str) else where.store_url
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        from headrace.storage.local import LocalStore

        return LocalStore(Path(rest if separator else url))
    if scheme == "s3":
        from headrace.settings import load_settings
        from headrace.storage.s3 import S3Store

        return S3Store(load_settings(store_url=url) if isinstance(where, str) else where)
    raise ConfigError(
        f"HEADRACE_STORE_URL: expected s3://, file:// or a path; there is no store for {scheme}://"
    )
