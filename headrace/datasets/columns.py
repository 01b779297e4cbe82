"""Which columns of a file a model's inputs are made of, and the making of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from headrace.datasets.arrays import JSON, Values, arrow_type, lengths, stacked, to_values
from headrace.datasets.formats import Format
from headrace.datasets.rows import Reject, Rows, in_order, sift
from headrace.errors import InvalidInput
from headrace.signature import Array, Field, Record, Signature


@dataclass(frozen=True, slots=True)
class Columns:
    """What each column is for.

    inputs: by field, its column, or several of numbers that are one tensor side by side.
    id: the column that names a row; None where (file, row number) does. carry: columns that go
    along into the results.
    """

    inputs: Mapping[str, tuple[str, ...]]
    id: str | None = None
    carry: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that come back with the results."""
        return (*([] if self.id is None else [self.id]), *self.carry)

    @property
    def names(self) -> list[str]:
        """Every column that is read, once."""
        inputs = (name for names in self.inputs.values() for name in names)
        return list(dict.fromkeys([*self.kept, *inputs]))


@dataclass(frozen=True, slots=True)
class Records:
    """Rows as a model takes them.

    inputs: by field, in the model's order. kept: the id column and the carried ones.
    numbers: of each row in its file. rejects: the rows that are not among these.
    """

    inputs: Mapping[str, Values]
    kept: pa.Table
    numbers: Array
    rejects: tuple[Reject, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def record(self, index: int) -> Record:
        """One row's inputs; arrays are views."""
        return {name: values[index] for name, values in self.inputs.items()}


def choose(
    signature: Signature,
    available: Sequence[str],
    file: str,
    *,
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    id: str | None = None,
    carry: Sequence[str] = (),
) -> Columns:
    """The columns for a signature, out of those that `file` has.

    inputs: by field, the name of its column, or several, where ``*`` and ``?`` stand for any
    characters (``"pixel*"``: all of these, in the file's order). A field that is not named is
    the column of its own name. Raises InvalidInput.
    """
    asked = dict(inputs or {})
    known = {field.name for field in signature.inputs}
    if unknown := sorted(asked.keys() - known):
        raise InvalidInput(f"inputs.{unknown[0]}", f"the model has {', '.join(sorted(known))}")
    columns = {
        field.name: _found(asked.get(field.name, field.name), available, file, field)
        for field in signature.inputs
    }
    for name in [*([id] if id is not None else []), *carry]:
        if name not in available:
            raise InvalidInput(file, f"has no column {name!r}; it has {_listed(available)}")
    outputs = {field.name for field in signature.outputs}
    for name in [*([id] if id is not None else ["file", "row"]), *carry]:
        if name in outputs:
            raise InvalidInput(name, "is an output of the model, and cannot be carried as well")
    return Columns(columns, id, tuple(dict.fromkeys(name for name in carry if name != id)))


def typed(
    signature: Signature, columns: Columns, found: pa.Schema, format: Format, file: str
) -> pa.Schema:
    """The schema to read with: types that are known from the file or, without any, the model.

    Raises InvalidInput where a type cannot be what the model takes.
    """
    fields = {name: found.field(name) for name in columns.names}
    if format is Format.JSONL:
        for field in signature.inputs:
            names = columns.inputs[field.name]
            kind = _json_type(field, found.field(names[0]).type, len(names))
            metadata = JSON if field.dtype == "json" else None
            for name in names:
                fields[name] = pa.field(name, kind, metadata=metadata)
            if field.dtype == "bytes":
                fields[names[0]] = pa.field(names[0], pa.string())
    schema = pa.schema(list(fields.values()))
    try:
        _inputs(signature, columns, schema.empty_table())
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error.field}", error.problem) from None
    return schema


def convert(signature: Signature, columns: Columns, rows: Rows) -> Records:
    """The rows as the model takes them; each that does not fit is a reject with its reason."""
    parts, good, rejects = sift(
        lambda start, stop: _inputs(signature, columns, rows.table.slice(start, stop - start)),
        rows.numbers,
    )
    kept = rows.table.select(list(columns.kept))
    if columns.id is not None and rejects:
        ids = kept.column(columns.id).filter(pa.array(~good)).to_pylist()
        rejects = [replace(reject, id=id) for reject, id in zip(rejects, ids, strict=True)]
    return Records(
        {field.name: _joined([part[field.name] for part in parts]) for field in signature.inputs},
        kept.filter(pa.array(good)) if rejects else kept,
        rows.numbers[good],
        in_order(rows.rejects, rejects),
    )


def _inputs(signature: Signature, columns: Columns, table: pa.Table) -> dict[str, Values]:
    """Raises InvalidInput if one row does not fit."""
    inputs: dict[str, Values] = {}
    sizes: dict[str, Array] = {}
    for field in signature.inputs:
        arrays = [_whole(table.column(name)) for name in columns.inputs[field.name]]
        values = to_values(field, arrays[0]) if len(arrays) == 1 else stacked(field, arrays)
        for name, of_rows in lengths(field, values).items() if field.is_tensor else ():
            if not np.array_equal(sizes.setdefault(name, of_rows), of_rows):
                raise InvalidInput(field.name, f"dimension {name!r} differs from another field's")
        inputs[field.name] = values
    return inputs


def _json_type(field: Field, found: pa.DataType, columns: int) -> pa.DataType:
    """What a value of `field` is read as from JSON lines whose first ones look like `found`."""
    kind = arrow_type(field)
    levels = len(field.shape)
    if columns > 1:
        wanted = 0
    elif all(isinstance(size, int) for size in field.shape) and _levels(found) == 1:
        wanted = min(levels, 1)  # all of its numbers in one list
    else:
        wanted = levels
    for _ in range(levels - wanted):
        kind = kind.value_type
    return kind


def _levels(kind: pa.DataType) -> int:
    return 1 + _levels(kind.value_type) if pa.types.is_list(kind) else 0


def _joined(parts: list[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) > 0 and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [value for part in parts for value in part]


def _found(
    asked: str | Sequence[str], available: Sequence[str], file: str, field: Field
) -> tuple[str, ...]:
    patterns = [asked] if isinstance(asked, str) else list(asked)
    found: list[str] = []
    for pattern in patterns:
        if pattern in available:
            found.append(pattern)
        elif matching := [name for name in available if fnmatchcase(name, pattern)]:
            found += matching
        else:
            raise InvalidInput(
                file, f"has no column {pattern!r} for {field}; it has {_listed(available)}"
            )
    if len(found) > 1 and not field.is_tensor:
        raise InvalidInput(f"inputs.{field.name}", f"{field} is one column, not {_listed(found)}")
    return tuple(found)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
