"""Output files: written whole, sealed, and published only when somebody says so.

Between `seal` and `publish` lies the commit that decides whose file it is: what is sealed is seen
by no glob and no listing, and can be published, or discarded, by any process that was told of it,
as often as it likes. Local files here, objects of S3 in `uploads`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from headrace.errors import OutputLost, StoreUnavailable
from headrace.storage.files import sync, sync_folder

if TYPE_CHECKING:
    from headrace.settings import Settings


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file that is whole, and not yet to be seen. Plain values, so that a table can keep it.

    uri: where it is to appear. size: bytes. token: what tells it from any other file there.
    upload: of S3, the multipart upload's id. parts: their ETags.
    """

    uri: str
    size: int
    token: str
    upload: str = ""
    parts: tuple[str, ...] = ()

    def lost(self) -> OutputLost:
        """The error to raise where it is gone."""
        return OutputLost(
            f"{self.uri}: what was written for it is gone, as after a clean-up; run it again"
        )


class Output(Protocol):
    """A file in the making, which goes again where its block ends without a seal.

    Every call raises StoreUnavailable, StorageError. keeps: whether what a `write` was given that
    raised StoreUnavailable is kept for the next one, and `seal` may be called again after it.
    """

    keeps: bool

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def write(self, data: bytes) -> int:
        """Put bytes behind those that are there."""
        ...

    def seal(self) -> Sealed:
        """The file is whole, and lasts. Nothing is written after it."""
        ...


def open_output(uri: str, settings: Settings) -> Output:
    """A file that is to appear at a path, whose folder is made, or at ``s3://bucket/key``."""
    if uri.startswith("s3://"):
        from headrace.datasets.uploads import Upload

        return Upload(uri, settings)
    return _LocalFile(Path(uri.removeprefix("file://")).absolute())


def publish(sealed: Sealed, settings: Settings, *, over: bool = False) -> None:
    """Have the file appear. Once it has, any number of calls change nothing.

    over: in place of what is there, if anything. Raises OutputLost where it was discarded;
    ObjectExists where another is there (in S3); StoreUnavailable, StorageError.
    """
    if sealed.uri.startswith("s3://"):
        from headrace.datasets import uploads

        uploads.publish(sealed, settings, over=over)
    else:
        _publish(sealed, Path(sealed.uri))


def discard(sealed: Sealed, settings: Settings) -> None:
    """Give up a file that is not published; one that is gone, or published, is no error."""
    if sealed.uri.startswith("s3://"):
        from headrace.datasets import uploads

        uploads.discard(sealed, settings)
    else:
        with _translated(sealed.uri):
            _hidden(Path(sealed.uri), sealed.token).unlink(missing_ok=True)


def remove(uris: Iterable[str], settings: Settings) -> None:
    """Remove files; one that is not there is no error. Raises StoreUnavailable, StorageError."""
    for uri in uris:
        if uri.startswith("s3://"):
            from headrace.datasets import uploads

            uploads.remove(uri, settings)
        else:
            with _translated(uri):
                Path(uri.removeprefix("file://")).unlink(missing_ok=True)


class _LocalFile:
    """A hidden file beside the one that it is to become."""

    keeps = False

    def __init__(self, target: Path) -> None:
        self._target = target
        self._token = secrets.token_hex(8)
        self._sealed = False
        with _translated(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = _hidden(target, self._token).open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._sealed:
            _hidden(self._target, self._token).unlink(missing_ok=True)

    def write(self, data: bytes) -> int:
        with _translated(str(self._target)):
            return self._file.write(data)

    def seal(self) -> Sealed:
        with _translated(str(self._target)):
            sync(self._file)
            size = self._file.tell()
            sync_folder(self._target.parent)
        self._sealed = True
        return Sealed(str(self._target), size, self._token)


def _publish(sealed: Sealed, target: Path) -> None:
    with _translated(sealed.uri):
        try:
            _hidden(target, sealed.token).replace(target)
        except FileNotFoundError:
            if not target.is_file() or target.stat().st_size != sealed.size:
                raise sealed.lost() from None
        sync_folder(target.parent)


def _hidden(target: Path, token: str) -> Path:
    return target.with_name(f".{target.name}.{token}")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{uri}: {error}") from error
