"""Objects as files in a folder, for one host.

An object appears by a hard link to a finished, synced temporary file: `link` is atomic and,
unlike `rename`, refuses to replace what is there. Temporary files lie in one folder whose
name is no possible key, so that what a killed process left is never taken for an object.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.errors import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from headrace.storage import ObjectInfo
from headrace.storage.digests import sha256
from headrace.storage.files import appearing, sync, sync_folder
from headrace.storage.keys import check_key, check_range, is_part

_TEMPORARY = "~tmp"
_CHUNK = 1024 * 1024
_TRIES = 10


class LocalStore:
    """An ObjectStore below `root`, which is made by the first put.

    A file system cannot hold the keys ``a`` and ``a/b`` at once; the second is refused with
    StorageError.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))
        self._synced: set[Path] = set()

    @property
    def url(self) -> str:
        """``file://`` and the absolute path."""
        return f"file://{self.root}"

    def create(self) -> bool:
        """Make the folder; False where it was there."""
        made = not self.root.is_dir()
        self.root.mkdir(parents=True, exist_ok=True)
        return made

    def put(self, key: str, data: bytes) -> str:
        """Store `data` durably, at once or not at all. Returns its sha256.

        Raises ObjectExists if the key is taken by other content.
        """
        self._put(key, io.BytesIO(data))
        return sha256(data)

    def put_file(self, key: str, path: Path) -> None:
        """Like `put`, streaming from a file. Raises OSError where that one cannot be opened."""
        with path.open("rb") as source:
            self._put(key, source)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` (all the rest if None).

        Raises ObjectMissing, and ObjectCorrupt where fewer than `length` bytes are there.
        """
        check_range(offset, length)
        with self._open(key) as file:
            size = os.fstat(file.fileno()).st_size
            if length is not None and offset + length > size:
                raise ObjectCorrupt(
                    key, f"{size} bytes long, but bytes {offset} to {offset + length} were wanted"
                )
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def get_file(self, key: str, path: Path) -> None:
        """Stream the object into `path`, which appears whole or not at all."""
        with self._open(key) as source, appearing(path) as file:
            shutil.copyfileobj(source, file, _CHUNK)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order."""
        with _translated(prefix):
            yield from _walk(self.root, "", prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error. Empties folders go with them."""
        for key in keys:
            path = self._path(key)
            with _translated(key):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
                self._prune(path.parent)

    def tidy(self, age: float, limit: int) -> int:
        """Remove at most `limit` temporary files of writes that have not gone on for so long."""
        folder = self.root / _TEMPORARY
        with _translated(_TEMPORARY):
            return _remove_stale(folder, age, limit) if folder.is_dir() else 0

    def _put(self, key: str, source: BinaryIO) -> None:
        try:
            with self._new(key) as file:
                shutil.copyfileobj(source, file, _CHUNK)
        except ObjectExists:
            source.seek(0)
            if not self._holds(key, source):
                raise

    def _holds(self, key: str, source: BinaryIO) -> bool:
        """Whether the object has the content of `source`; then it is made durable."""
        path = self._path(key)
        with contextlib.suppress(ObjectMissing), self._open(key) as held:
            while held_chunk := held.read(_CHUNK):
                if held_chunk != source.read(len(held_chunk)):
                    return False
            if not source.read(1):
                self._sync_folders(path.parent)
                return True
        return False

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*check_key(key))

    @contextlib.contextmanager
    def _open(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with _translated(key):
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectMissing(key, f"not in {self.url}") from None
            with file:
                yield file

    @contextlib.contextmanager
    def _new(self, key: str) -> Iterator[BinaryIO]:
        """A temporary file that becomes the object when the body ends without an error."""
        target = self._path(key)
        with _translated(key):
            if os.path.lexists(target):  # spares the write; `link` below is what decides
                raise ObjectExists(key, f"is already in {self.url}")
            temporary = self._temporary()
            try:
                with temporary.open("xb") as file:
                    yield file
                    sync(file)
                self._publish(key, temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(self, key: str, temporary: Path, target: Path) -> None:
        for tries_left in reversed(range(_TRIES)):
            self._make_folder(key, target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise ObjectExists(key, f"is already in {self.url}") from None
            except FileNotFoundError:
                if not tries_left:
                    raise
            else:
                break
        self._sync_folders(target.parent)

    def _make_folder(self, key: str, folder: Path) -> None:
        """Make `folder`, although deletes elsewhere may prune it or those above meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            if not folder.is_dir():
                self._synced.clear()
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, FileNotFoundError, NotADirectoryError):
                if any(path.is_file() for path in (folder, *folder.parents)):
                    raise StorageError(key, "cannot lie below another object") from None
                if not tries_left:
                    raise
            else:
                return

    def _sync_folders(self, folder: Path) -> None:
        """Make the new name durable, and once per process those of the folders above it."""
        sync_folder(folder)
        above = itertools.takewhile(lambda path: path != self.root.parent, folder.parents)
        for parent in (*above, self.root.parent):
            if parent not in self._synced:
                sync_folder(parent)
                self._synced.add(parent)

    def _prune(self, folder: Path) -> None:
        """Remove `folder` and those above it, up to the root, as far as they are empty."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return
            self._synced.clear()
            folder = folder.parent

    def _temporary(self) -> Path:
        folder = self.root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder / secrets.token_hex(16)


def _walk(folder: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
    """The objects below `folder`, whose keys start with `above`."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (above + entry.name + "/" * entry.is_dir(follow_symlinks=False), entry)
                for entry in entries
                if is_part(entry.name)
            ]
    except FileNotFoundError:
        return
    # With its slash a folder sorts among the files as its keys do: a-b < a/b < a0.
    for key, entry in sorted(found, key=lambda item: item[0]):
        if key.endswith("/"):
            if key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(Path(entry.path), key, prefix)
        elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                yield ObjectInfo(key, stat.st_size, stat.st_mtime)


def _remove_stale(folder: Path, age: float, limit: int) -> int:
    """Remove what killed processes left; a file still being written has a recent time."""
    oldest = time.time() - age
    removed = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if removed < limit and path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"object {key!r}: {error}") from error
