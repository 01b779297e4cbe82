"""What the stations hand each other: items, batches of them, blocks of a shard, what has run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import uuid_utils

from headrace.db.units import NewPack, Unit
from headrace.errors import HeadraceError
from headrace.job import JobId, Outcome, PackId, Priority
from headrace.registry.manifest import ModelVersion
from headrace.runtimes.collated import Answer, Collated
from headrace.signature import Array, Record

FRESH_SECONDS = 0.1
"""What was found to be wanted longer ago is asked about again before it runs: a round trip."""


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed unit, fetched and validated.

    bucket: what batch-mates must share. length: tokens, where the model pads; else 1.
    named: whether the job table has it as on the device, since the claim. pack: announced for it
    by the claim. deadline: on this process's monotonic clock.
    """

    unit: Unit
    version: ModelVersion
    record: Record
    bucket: tuple[object, ...]
    length: int
    named: bool = False
    pack: NewPack | None = None
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one version and bucket, in the order they run, with a pack for each tenant.

    staged: set once the job table knows of it, which must be before anything is stored.
    """

    version: ModelVersion
    items: tuple[Item, ...]
    packs: tuple[NewPack, ...]
    staged: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def ids(self) -> list[JobId]:
        """The jobs, in order."""
        return [item.unit.id for item in self.items]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Not here, not now: the unit goes back to the queue for `delay` seconds, uncounted."""

    delay: float


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch with one outcome per item, whether or not it got as far as the device.

    seconds: on the device. more: whether the worker had more in hand that was still to run.
    """

    batch: Batch
    outcomes: tuple[Outcome | GiveBack, ...]
    seconds: float
    more: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Records of a shard that run as one batch.

    lengths: tokens of each. batch: all of them, ready made, where the model takes that; records:
    makes them one by one, for a model that does not, and where a batch fails. ran: told what
    became of them, by the thread that owns the device: an answer, or an outcome for each (None:
    run it again later), or why no record could be run.
    """

    job: JobId
    version: ModelVersion
    priority: Priority
    lengths: Array
    batch: Collated | None
    records: Callable[[], list[Record]]
    ran: Callable[[Answer | list[Outcome | None] | HeadraceError], None]


class Slot(Protocol):
    """Room for a unit of a dataset, of which a worker has one in hand at a time."""

    def free(self) -> bool:
        """Whether it would take one."""
        ...

    def put(self, unit: Unit) -> None:
        """Take it, to run it or to give it back."""
        ...


def as_text(said: object, length: int) -> str:
    """What a model or a file says, as the table can keep it.

    A message that broke the statement would take the worker with it, again and again.
    """
    text = str(said).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= length else text[: length - 1] + "…"


def new_pack(tenant: str, size: int) -> NewPack:
    """A pack at a fresh key."""
    day = datetime.now(UTC).strftime("%Y%m%d")
    id = PackId(str(uuid_utils.uuid7()))
    return NewPack(id, tenant, f"results/{day}/{id}", size)


def joined(rans: Sequence[Ran]) -> Ran:
    """Batches that ran one after the other, to be stored as if they had been one."""
    if len(rans) == 1:
        return rans[0]
    batches = [ran.batch for ran in rans]
    batch = Batch(
        batches[0].version,
        tuple(item for batch in batches for item in batch.items),
        tuple(pack for batch in batches for pack in batch.packs),
    )
    outcomes = tuple(outcome for ran in rans for outcome in ran.outcomes)
    return Ran(batch, outcomes, sum(ran.seconds for ran in rans))
