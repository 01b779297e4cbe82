"""How every file of a dataset is read: decided once, by its plan, and kept as text."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import pyarrow as pa

from headrace.dataset import Spec
from headrace.datasets.columns import Columns, choose, typed
from headrace.datasets.formats import of_name
from headrace.errors import InvalidInput
from headrace.signature import Signature


@dataclass(frozen=True, slots=True)
class Reading:
    """columns: what each is for. schema: of `columns.names`, for `shards.read`."""

    columns: Columns
    schema: pa.Schema

    def to_json(self) -> str:
        """What a table can keep."""
        return json.dumps(
            {
                "inputs": self.columns.inputs,
                "id": self.columns.id,
                "carry": self.columns.carry,
                "schema": base64.b64encode(self.schema.serialize()).decode(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Reading:
        """What `to_json` wrote."""
        kept = json.loads(text)
        inputs = {field: tuple(names) for field, names in kept["inputs"].items()}
        return cls(
            Columns(inputs, kept["id"], tuple(kept["carry"])),
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept["schema"]))),
        )


def reading_of(signature: Signature, spec: Spec, found: pa.Schema, file: str) -> Reading:
    """How to read what is like `file`, which has the columns `found`.

    Raises InvalidInput, which names the file and the field, where the model cannot take it.
    """
    columns = choose(signature, found.names, file, inputs=spec.inputs, id=spec.id, carry=spec.carry)
    schema = typed(signature, columns, found, of_name(file)[0], file)
    fields = {field.name: field for field in signature.inputs}
    for name in spec.fetch:
        if name not in fields or fields[name].dtype != "bytes":
            raise InvalidInput(f"fetch.{name}", "is no input of bytes, to be filled from a file")
        kind = schema.field(columns.inputs[name][0]).type
        if kind not in (pa.string(), pa.large_string()):
            raise InvalidInput(f"{file}: {name}", f"expected paths to fetch, got {kind}")
    return Reading(columns, schema)
