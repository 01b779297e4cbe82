"""Claimed items, made from as little as a test cares for."""

from __future__ import annotations

import itertools

from headrace.db.units import Unit
from headrace.job import JobId, ModelKey, Priority
from headrace.registry.manifest import Batching, Manifest, ModelVersion
from headrace.signature import Field, Signature
from workers.flow import Item

_SIGNATURE = Signature((Field("x", "float32", ("n",), 0.0),), (Field("y", "float32"),))
_ids = itertools.count()


def version(
    name: str = "m",
    number: int = 1,
    *,
    records: int = 4,
    tokens: int | None = None,
    time_limit: float = 60,
) -> ModelVersion:
    batching = Batching(records, tokens, time_limit)
    manifest = Manifest(name, "python", _SIGNATURE, handler="h.py", batching=batching)
    return ModelVersion(number, "digest", manifest, {}, {})


def item(
    of: ModelVersion | None = None,
    *,
    priority: Priority = Priority.NORMAL,
    length: int = 1,
    bucket: tuple[object, ...] = (),
    record: dict | None = None,
    suspect: bool = False,
) -> Item:
    of = of or version()
    id = JobId(f"{next(_ids):08d}")
    key = ModelKey(of.manifest.name, of.version)
    unit = Unit(id, "", key, priority, 1, 0.0, 0.0, b"", None, suspect)
    return Item(unit, of, record or {}, bucket, length)
