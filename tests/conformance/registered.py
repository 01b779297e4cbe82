"""Versions in the registry without a package behind them: enough to submit to."""

import json

from headrace.db import models
from headrace.db.engine import Database
from headrace.job import ModelKey
from headrace.registry.manifest import Batching, Manifest, manifest_to_dict
from headrace.signature import Field, Signature
from tests.conformance.job_table import new_id

INLINE = 1024
"""Bytes above which the service under test puts an input into the store."""

MAX_INPUT = 64 * 1024
"""Bytes above which it refuses one."""

IMAGE = Signature((Field("image", "float32", (2, 2)),), (Field("scores", "float32", (3,)),))
PAIR = Signature(
    (Field("left", "float32", ("n",)), Field("note", "string")), (Field("sum", "float32"),)
)
PLAIN = Signature(
    (Field("data", "bytes"), Field("options", "json")),
    (Field("data", "bytes"), Field("text", "string"), Field("tree", "json")),
)


def register(
    database: Database, name: str, signature: Signature, *, pool: str = "default", batch: int = 64
) -> ModelKey:
    manifest = Manifest(
        name,
        "python",
        signature,
        handler="handler.py",
        pool=pool,
        batching=Batching(max_records=batch),
    )
    with database.write() as connection:
        version = models.add(
            connection,
            name=name,
            digest=new_id(),
            pool=pool,
            max_records=batch,
            manifest=json.dumps(manifest_to_dict(manifest)),
            files="{}",
            code="{}",
        )
    return ModelKey(name, version)
