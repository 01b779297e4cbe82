"""Input files: what there is, pinned as it was found, and reads that are held to that.

Local files here, objects of S3 in `objects`.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from headrace.datasets.formats import is_data
from headrace.errors import InputChanged, InvalidInput, StorageError, StoreUnavailable

if TYPE_CHECKING:
    from headrace.settings import Settings

_BUFFER = 64 * 1024
WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as it was found.

    uri: a path, or ``s3://bucket/key``. size: bytes. tag: an ETag, or the time of the last
    change in nanoseconds; what is read under another one is no longer this file.
    """

    uri: str
    size: int
    tag: str

    def changed(self) -> InputChanged:
        """The error to raise where it is not as it was found."""
        return InputChanged(
            f"{self.uri} changed after the dataset was planned; submit it anew, to another output"
        )


def find(where: str, settings: Settings) -> list[InputFile]:
    """All of `each`."""
    return list(each(where, settings))


def each(where: str, settings: Settings) -> Iterator[InputFile]:
    """The files at a path, in a folder, or that match a pattern, in the order of their names.

    where: ``s3://bucket/…`` or a local path; ``*`` and ``?`` stand for characters within a
    name, ``**`` for any number of folders. Of a folder, every file below it whose name ends as
    one of records does and begins with neither ``.`` nor ``_``.
    Raises InvalidInput where there is none, StoreUnavailable, StorageError.
    """
    if _in_s3(where):
        from headrace.datasets import objects

        found = objects.find(where, settings)
    else:
        found = _local(where)
    none = True
    for file in found:
        none = False
        yield file
    if none:
        raise InvalidInput(where, "there are no such files")


@contextlib.contextmanager
def open_file(file: InputFile, settings: Settings) -> Iterator[BinaryIO]:
    """The file, to be read at any place. Raises InputChanged, StoreUnavailable, StorageError.

    Whether a local file is still the same is asked at the beginning, and at the end of the block.
    """
    raw: io.RawIOBase
    if _in_s3(file.uri):
        from headrace.datasets import objects

        raw = objects.Object(file, settings)
    else:
        raw = _Pinned(file)
    with io.BufferedReader(raw, _BUFFER) as stream:
        yield stream
        if isinstance(raw, _Pinned):
            raw.check()


def on_disk(path: Path) -> InputFile:
    """The local file, as it is now. Raises OSError."""
    status = path.stat()
    return InputFile(str(path.absolute()), status.st_size, str(status.st_mtime_ns))


def is_record_file(below: str) -> bool:
    """Whether a file is one of records, by its path below the folder that was asked for."""
    *folders, name = below.split("/")
    return is_data(name) and not any(folder.startswith((".", "_")) for folder in folders)


def _in_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def _local(where: str) -> Iterator[InputFile]:
    path = where.removeprefix("file://")
    for found in sorted(map(os.path.abspath, _paths(path))):
        shown = os.fsencode(found).decode(errors="replace")
        if shown != found:
            raise InvalidInput(shown, "its name is no UTF-8, as tables want it; rename it")
        with contextlib.suppress(FileNotFoundError), _translated(found):
            yield on_disk(Path(found))


def _paths(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        for folder, _, names in os.walk(path):
            for name in names:
                found = os.path.join(folder, name)
                if is_record_file(Path(found).relative_to(path).as_posix()):
                    yield found
    elif os.path.isfile(path):
        yield path
    elif WILD & set(path):
        yield from filter(os.path.isfile, glob.iglob(path, recursive=True))


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise StorageError(path, "may not be read by the user who runs the worker") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error


class _Pinned(io.FileIO):
    """A local file that is what it was."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        try:
            with _translated(file.uri):
                super().__init__(file.uri)
        except FileNotFoundError:
            raise file.changed() from None
        self.check()

    def check(self) -> None:
        """Raises InputChanged."""
        # By its name: pyarrow may have closed the stream.
        with contextlib.suppress(FileNotFoundError):
            if on_disk(Path(self._file.uri)) == self._file:
                return
        raise self._file.changed()
