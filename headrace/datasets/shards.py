"""Shards: what one worker runs at once. Cutting a file into them, and reading one.

A Parquet file is cut between or within its row groups, plain JSON lines at line ends. Neither a
compressed file nor CSV, where a line end may be part of a value, can be entered in the middle:
they are read once, from the beginning, and laid down in pieces that can.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from headrace.datasets import delimited, jsonl, parquet
from headrace.datasets.files import InputFile, on_disk, open_file
from headrace.datasets.formats import Format, of_name
from headrace.datasets.rows import Rows, joined
from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from headrace.settings import Settings

BATCH = 4096
"""Rows that are read at a time, where the format lets one choose."""

_AHEAD = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of one input file.

    first: the place in the file, from 0, of the first; of JSON lines, its line. rows: how many,
    those that turn out to be none among them. start, stop: where they lie in plain JSON lines,
    in bytes; of a piece, the place of the first row and that behind the last. piece: the Parquet
    file that they were laid down in.
    """

    file: InputFile
    first: int
    rows: int
    start: int = 0
    stop: int = 0
    piece: InputFile | None = None


def columns(file: InputFile, settings: Settings) -> pa.Schema:
    """The columns of a file; their types are those of the file, or of its first rows.

    CSV and JSON lines without a line have none. Raises InvalidInput, InputChanged,
    StoreUnavailable, StorageError; as all here do.
    """
    format, _ = of_name(file.uri)
    with _opened(file, settings) as stream:
        match format:
            case Format.PARQUET:
                return parquet.columns(stream)
            case Format.JSONL:
                return jsonl.columns(_plain(file, stream))
            case Format.CSV:
                return delimited.columns(_plain(file, stream))


def check_alike(file: InputFile, first: InputFile, schema: pa.Schema, settings: Settings) -> None:
    """Whether what is read of `first` with `schema` can be read of `file` too.

    Lines of JSON say for themselves, one by one; where there is no line, all is well. Raises
    InvalidInput.
    """
    format = of_name(first.uri)[0]
    if of_name(file.uri)[0] is not format:
        raise InvalidInput(file.uri, f"is not {format}, as {first.uri} is; run them apart")
    found = columns(file, settings) if format is not Format.JSONL else None
    if found is None or (format is Format.CSV and not found.names):
        return
    for field in schema:
        if field.name not in found.names:
            raise InvalidInput(file.uri, f"has no column {field.name!r}, as {first.uri} has")
        if (kind := found.field(field.name).type) != field.type:
            raise InvalidInput(
                f"{file.uri}: {field.name}", f"is {kind}, in {first.uri} {field.type}"
            )


def in_place(file: InputFile) -> bool:
    """Whether the file can be cut as it lies; else it is to be laid down in pieces."""
    format, compression = of_name(file.uri)
    return format is Format.PARQUET or (format is Format.JSONL and not compression)


def cut(
    file: InputFile, size: int, settings: Settings, behind: Shard | None = None
) -> Iterator[Shard]:
    """Shards of about `size` rows, of a file that is `in_place`. Together, each row once.

    behind: the last that was cut before, to any size; what follows it is cut.
    """
    with _opened(file, settings) as stream:
        if of_name(file.uri)[0] is Format.PARQUET:
            first = 0 if behind is None else behind.first + behind.rows
            yield from _cut_groups(file, parquet.groups(stream), size, first)
        else:
            yield from _cut_lines(file, stream, size, behind)


def lay_down(
    file: InputFile,
    schema: pa.Schema,
    size: int,
    folder: Path,
    settings: Settings,
    behind: Shard | None = None,
) -> Iterator[Shard]:
    """Shards of `size` rows and a last one, each with a piece that is written into `folder`.

    schema: the columns to keep. A piece is complete once its shard is given. behind: the last
    that was laid down before; the file is read from its beginning all the same.
    """
    with _opened(file, settings) as stream:
        plain = _plain(file, stream)
        is_csv = of_name(file.uri)[0] is Format.CSV
        rows = delimited.read(plain, schema) if is_csv else jsonl.read(plain, schema)
        if behind is not None:
            rows = (some.split_at(behind.stop)[1] for some in rows)
        rest: list[Rows] = []
        for number in itertools.count():
            taken = _take(rows, rest, size)
            if (head := next(taken, None)) is None:
                return
            path = folder / f"{number:06d}.parquet"
            with path.open("wb") as sink:
                count, stop = parquet.write_piece(itertools.chain([head], taken), sink, schema)
            yield Shard(file, head.first, count, head.first, stop, on_disk(path))


def read(shard: Shard, schema: pa.Schema, settings: Settings, batch: int = BATCH) -> Iterator[Rows]:
    """The rows of a shard, some at a time (up to `batch`, where the format lets one choose), in
    the file's order.
    """
    file = shard.piece or shard.file
    with _opened(file, settings) as stream:
        if shard.piece is not None:
            yield from parquet.read_piece(stream, schema, batch)
        elif of_name(file.uri)[0] is Format.PARQUET:
            yield from parquet.read(stream, schema, shard.first, shard.rows, batch)
        else:
            stream.seek(shard.start)
            yield from jsonl.read(stream, schema, shard.first, shard.stop - shard.start)


def windows(rows: Iterable[Rows], size: int, most_bytes: int) -> Iterator[Rows]:
    """The same rows, `size` at a time, the rejects among them; less where they are large."""
    parts: list[Rows] = []
    count = held = 0
    for some in rows:
        while len(some):
            head, some = some.split(size - count)  # what is left of it
            parts.append(head)
            count += len(head)
            held += head.table.nbytes
            if count == size or held >= most_bytes:
                yield joined(parts)
                parts, count, held = [], 0, 0
    if parts:
        yield joined(parts)


@contextmanager
def _opened(file: InputFile, settings: Settings) -> Iterator[BinaryIO]:
    """The file, whose name is in what is said of it."""
    try:
        with open_file(file, settings) as stream:
            yield stream
    except InvalidInput as error:
        raise InvalidInput(f"{file.uri}: {error.field}", error.problem) from None
    except (pa.ArrowException, OSError) as error:
        format = of_name(file.uri)[0]
        raise InvalidInput(file.uri, f"damaged, or no {format} ({error})") from error


def _plain(file: InputFile, stream: BinaryIO) -> BinaryIO:
    compression = of_name(file.uri)[1]
    if not compression:
        return stream
    # It asks for 64 KB at a time.
    ahead = io.BufferedReader(cast(io.RawIOBase, stream), _AHEAD)
    plain: BinaryIO = pa.CompressedInputStream(pa.PythonFile(ahead, "r"), compression.value)
    return plain


def _cut_groups(file: InputFile, groups: Sequence[int], size: int, first: int) -> Iterator[Shard]:
    """Small row groups go together, large ones are halved, quartered and so on."""
    count, done = 0, first
    for group in groups:
        rows = group - min(done, group)
        done -= group - rows
        if count and count + rows > size:
            yield Shard(file, first, count)
            first, count = first + count, 0
        parts = max(1, -(-rows // size))
        if parts == 1:
            count += rows
            continue
        for part in range(parts):
            some = rows * (part + 1) // parts - rows * part // parts
            yield Shard(file, first, some)
            first += some
    if count:
        yield Shard(file, first, count)


def _cut_lines(
    file: InputFile, stream: BinaryIO, size: int, behind: Shard | None
) -> Iterator[Shard]:
    first = start = rows = 0
    if behind is not None:
        stream.seek(behind.start)
        before = jsonl.blocks(stream, size=behind.stop - behind.start)
        first = behind.first + sum(len(some) for _, some in before)
        start = behind.stop
    at = start
    for number, lines in jsonl.blocks(stream, first):
        for line_number, line in enumerate(lines, number):
            rows += jsonl.holds_row(line)
            at = min(at + len(line) + 1, file.size)  # the last line may have no end
            if rows == size:
                yield Shard(file, first, rows, start, at)
                first, start, rows = line_number + 1, at, 0
    if rows:
        yield Shard(file, first, rows, start, file.size)


def _take(rows: Iterator[Rows], rest: list[Rows], size: int) -> Iterator[Rows]:
    """The next `size` rows, rejects among them; what was read beyond goes into `rest`."""
    while size and (some := rest.pop() if rest else next(rows, None)) is not None:
        head, tail = some.split(size)
        if len(tail):
            rest.append(tail)
        if len(head):
            size -= len(head)
            yield head
