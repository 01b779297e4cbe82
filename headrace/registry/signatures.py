"""Works out a signature from example inputs and the outputs seen for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headrace.errors import InvalidInput, PackageError
from headrace.signature import TENSOR_DTYPES, Array, Field, Record, Signature, to_array

Shapes = Mapping[str, Sequence[int | str]]
"""Shape of one record by field name; a str names a dimension that varies."""


def columns_of(example: Mapping[str, Any]) -> dict[str, Any]:
    """Example columns (leading record dimension) as arrays, or lists of plain values.

    Arrays of numpy strings or bytes become lists. Raises PackageError naming the field.
    """
    columns: dict[str, Any] = {}
    for name, column in example.items():
        if isinstance(column, np.ndarray) and column.dtype.kind in "USO":
            column = column.tolist()
        if isinstance(column, str | bytes | Mapping):
            raise PackageError(f"example: {name}", "expected one entry per record")
        if isinstance(column, list | tuple) and column and _plain(column[0]) is not None:
            columns[name] = list(column)
            continue
        try:
            columns[name] = to_array(column, f"example: {name}")
        except InvalidInput as error:
            raise PackageError(error.field, error.problem) from None
        if columns[name].ndim == 0:
            raise PackageError(f"example: {name}", "has no leading dimension for the records")
    counts = {name: len(column) for name, column in columns.items()}
    if not counts or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise PackageError("example", f"expected as many records in each field, found {counts}")
    return columns


def input_fields(
    columns: Mapping[str, Any], shapes: Shapes, pad: Mapping[str, float]
) -> tuple[Field, ...]:
    """One field per example column, with the shape of `shapes` where it is given."""
    fields = []
    for name, column in columns.items():
        if isinstance(column, list):
            fields.append(Field(name, _plain(column[0]) or "json"))
            continue
        shape = tuple(shapes.get(name, column.shape[1:]))
        _check_shape(name, shape, column.shape[1:])
        fields.append(Field(name, _dtype(name, column), shape, pad.get(name)))
    return tuple(fields)


def tensor_outputs(
    outputs: Mapping[str, Array], shorter: Mapping[str, Mapping[str, Array]]
) -> tuple[Field, ...]:
    """One field per output column seen.

    shorter: by varying dimension, the outputs when the inputs were one shorter in it; a
    dimension of an output that followed is the same one.
    """
    fields = []
    for name, column in outputs.items():
        shape: list[int | str] = list(column.shape[1:])
        for dim, others in shorter.items():
            for axis, extent in enumerate(others[name].shape[1:]):
                if extent != column.shape[1:][axis]:
                    shape[axis] = dim
        fields.append(Field(name, _dtype(name, column), tuple(shape)))
    return tuple(fields)


def plain_outputs(answers: Sequence[Mapping[str, Any]], handler: str) -> tuple[Field, ...]:
    """One field per output of a Python handler, seen over some records.

    A dimension that differs from record to record gets a name.
    """
    first = answers[0]
    fields = []
    for name in first:
        try:
            values = [answer[name] for answer in answers]
        except KeyError:
            raise PackageError(handler, f"output {name!r} is not there in every record") from None
        fields.append(_plain_output(str(name), values))
    return tuple(fields)


def _plain_output(name: str, values: list[Any]) -> Field:
    dtype = _plain(values[0])
    if dtype is not None:
        same = all(_plain(value) == dtype for value in values)
        return Field(name, dtype if same else "json")
    arrays = [np.asarray(value) for value in values]
    if any(array.dtype.kind not in "biufc" for array in arrays):
        return Field(name, "json")
    if len({array.ndim for array in arrays}) != 1:
        raise PackageError(f"outputs.{name}", "its number of dimensions differs between records")
    extents = zip(*(array.shape for array in arrays), strict=True)
    shape = tuple(
        sizes[0] if len(set(sizes)) == 1 else f"{name}_{axis}" for axis, sizes in enumerate(extents)
    )
    return Field(name, np.result_type(*arrays).name, shape)


def rename(signature: Signature, shapes: Shapes, pad: Mapping[str, float]) -> Signature:
    """`signature` with the dimensions named as in `shapes`, and `pad` set by input name.

    Raises PackageError where `shapes` contradicts it.
    """
    names: dict[str, str] = {}
    for field in signature.inputs:
        if field.name not in shapes:
            continue
        wanted = tuple(shapes[field.name])
        if len(wanted) != len(field.shape):
            raise PackageError(f"shape of {field.name}", f"the model has {list(field.shape)}")
        for new, old in zip(wanted, field.shape, strict=True):
            if isinstance(old, str) and isinstance(new, str):
                names[old] = new
            elif new != old:
                raise PackageError(f"shape of {field.name}", f"the model has {list(field.shape)}")
    return Signature(
        tuple(_renamed(field, names, pad.get(field.name)) for field in signature.inputs),
        tuple(_renamed(field, names, None) for field in signature.outputs),
    )


def _renamed(field: Field, names: Mapping[str, str], pad: float | None) -> Field:
    shape = tuple(names.get(dim, dim) if isinstance(dim, str) else dim for dim in field.shape)
    return replace(field, shape=shape, pad=pad)


def varying(fields: Sequence[Field]) -> list[str]:
    """The names of dimensions, each once, in order."""
    dims = [dim for field in fields for dim in field.shape if isinstance(dim, str)]
    return list(dict.fromkeys(dims))


def shorten(fields: Sequence[Field], record: Record, dim: str) -> dict[str, Any]:
    """`record` with one step less along the dimension `dim`."""
    short = dict(record)
    for field in fields:
        if dim in field.shape:
            cut = tuple(slice(-1 if other == dim else None) for other in field.shape)
            short[field.name] = np.ascontiguousarray(record[field.name][cut])
    return short


def _check_shape(name: str, shape: Sequence[int | str], seen: Sequence[int]) -> None:
    if len(shape) != len(seen) or any(
        isinstance(want, int) and want != got for want, got in zip(shape, seen, strict=True)
    ):
        raise PackageError(f"shape of {name}", f"the example has {list(seen)}")


def _dtype(name: str, array: Array) -> str:
    if array.dtype.name not in TENSOR_DTYPES:
        raise PackageError(name, f"dtype {array.dtype.name} is not supported")
    return array.dtype.name


def _plain(value: Any) -> str | None:
    """The dtype of a value that is no tensor, else None."""
    if isinstance(value, bytes | bytearray):
        return "bytes"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping) or value is None:
        return "json"
    return None
