"""What a worker takes out of the job table, and what it puts back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.job import JobId, ModelKey, PackId, Priority


@dataclass(frozen=True, slots=True)
class Unit:
    """A claimed job: this worker's to run, as attempt `attempt`.

    input: the encoded record, or None where it lies at `input_at` (key, offset, length).
    created_at, claimed_at, deadline: Unix seconds, the database's clock. suspect: it must run
    alone.
    """

    id: JobId
    tenant: str
    model: ModelKey
    priority: Priority
    attempt: int
    created_at: float
    claimed_at: float
    input: bytes | None
    input_at: tuple[str, int, int] | None
    suspect: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class NewPack:
    """A pack about to be written: its row comes before its object, so that neither is lost."""

    id: PackId
    tenant: str
    key: str
    batch_size: int


@dataclass(frozen=True, slots=True)
class WrittenPack:
    """A pack whose object lies in the store. size: bytes."""

    id: PackId
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Success:
    """The result is `length` bytes from `offset` of the pack; `inline` is a copy, if small."""

    id: JobId
    attempt: int
    pack: PackId
    offset: int
    length: int
    inline: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The job ends without a result."""

    id: JobId
    attempt: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Again:
    """The job goes back to the queue, due in `delay` seconds.

    counted: whether the attempt counts; a give-back does not.
    """

    id: JobId
    attempt: int
    delay: float
    counted: bool


Settlement = Success | Failure | Again
