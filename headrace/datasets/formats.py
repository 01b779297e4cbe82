"""Formats and compressions, by the ends of file names. Pure."""

from __future__ import annotations

import enum

from headrace.errors import InvalidInput


class Format(enum.StrEnum):
    """How records lie in a file."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"


class Compression(enum.StrEnum):
    """What the whole file is wrapped in; Parquet compresses inside, by itself."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"


_FORMATS = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
}
_COMPRESSIONS = {".gz": Compression.GZIP, ".zst": Compression.ZSTD, ".zstd": Compression.ZSTD}
_SUFFIX = {Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}


def of_name(name: str) -> tuple[Format, Compression]:
    """What a file of this name holds. Raises InvalidInput."""
    stem, lower = name.lower(), name.lower()
    compression = Compression.NONE
    for suffix, found in _COMPRESSIONS.items():
        if lower.endswith(suffix):
            stem, compression = lower.removesuffix(suffix), found
    for suffix, format in _FORMATS.items():
        if stem.endswith(suffix) and not (format is Format.PARQUET and compression):
            return format, compression
    raise InvalidInput(
        name, f"expected a file name that ends in {', '.join(_FORMATS)}; .gz or .zst may follow"
    )


def suffix(format: Format, compression: Compression) -> str:
    """What the name of such a file ends in."""
    inside = format is Format.PARQUET or not compression
    return f".{format}" if inside else f".{format}{_SUFFIX[compression]}"


def is_data(name: str) -> bool:
    """Whether a file found in a folder is one of records, and none that is hidden or a marker."""
    try:
        of_name(name)
    except InvalidInput:
        return False
    return not name.startswith((".", "_"))
