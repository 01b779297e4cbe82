"""Between Arrow's columns and a model's fields, a whole column at a time."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import InvalidInput
from headrace.signature import Array, Field, Value, cast

Values = Array | list[Value]
"""A field's values: one array with a leading dimension that counts rows, or a list of them."""

JSON = {b"headrace": b"json"}
"""Marks a column of text that holds JSON values, in an Arrow field's metadata."""


def to_values(field: Field, column: pa.Array) -> Values:
    """The column's rows as `field` takes them. Raises InvalidInput if one row does not fit.

    Tensors are (nested) lists, a flat list of as many numbers where every dimension is fixed,
    or text that holds JSON; bytes may be base64 text.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        raise InvalidInput(field.name, f"missing; expected {field}")
    if field.is_tensor:
        return _tensors(field, column)
    if field.dtype == "json":
        return [field.check(value, field.name) for value in _json_values(field, column)]
    if field.dtype == "bytes" and _is_text(column.type):
        return [_from_base64(field, text) for text in column.to_pylist()]
    wanted = _is_text if field.dtype == "string" else _is_binary
    if not wanted(column.type):
        raise InvalidInput(field.name, f"expected {field.dtype}, got a column of {column.type}")
    return list(column.to_pylist())


def stacked(field: Field, columns: Sequence[pa.Array]) -> Values:
    """Several columns of numbers, side by side, as one field. Raises InvalidInput."""
    scalar = Field(field.name, field.dtype, (), finite=field.finite)
    parts = [to_values(scalar, column) for column in columns]
    return _shaped(field, np.stack(parts, axis=1) if parts else np.empty((0, 0)))


def lengths(field: Field, values: Values) -> dict[str, Array]:
    """The size of each named dimension, row by row."""
    return {
        name: (
            np.full(len(values), values.shape[axis + 1])
            if isinstance(values, np.ndarray)
            else np.array([value.shape[axis] for value in values], dtype=np.int64)
        )
        for axis, name in enumerate(field.shape)
        if isinstance(name, str)
    }


def arrow_type(field: Field) -> pa.DataType:
    """The type of a column that holds `field`. Raises InvalidInput where there is none."""
    if not field.is_tensor:
        return pa.binary() if field.dtype == "bytes" else pa.string()
    if np.dtype(field.dtype).kind == "c":
        raise InvalidInput(field.name, f"{field.dtype} has no column type; split it into two")
    # Neither CSV nor JSON knows half precision, and few readers of Parquet do.
    wide = "float32" if field.dtype == "float16" else field.dtype
    kind = pa.from_numpy_dtype(np.dtype(wide))
    for _ in field.shape:
        kind = pa.list_(kind)
    return kind


def to_column(field: Field, values: Values) -> pa.Array:
    """A model's outputs, one per row, as a column of `arrow_type(field)`."""
    kind = arrow_type(field)
    if field.dtype == "json":
        return pa.array([json.dumps(value, ensure_ascii=False) for value in values], kind)
    if not field.is_tensor:
        return pa.array(values, kind)
    inner = kind
    for _ in field.shape:
        inner = inner.value_type
    if isinstance(values, np.ndarray):
        flat, sizes = (
            values.reshape(-1),
            [
                np.full(math.prod(values.shape[: depth + 1]), values.shape[depth + 1])
                for depth in range(len(field.shape))
            ],
        )
    else:
        arrays = [np.asarray(value) for value in values]
        flat = np.concatenate([array.ravel() for array in arrays]) if arrays else np.empty(0)
        sizes = [
            np.concatenate(
                [np.full(math.prod(array.shape[:depth]), array.shape[depth]) for array in arrays]
                or [np.empty(0, np.int64)]
            )
            for depth in range(len(field.shape))
        ]
    column = pa.array(flat.astype(inner.to_pandas_dtype(), copy=False), inner)
    for of_lists in reversed(sizes):
        offsets = np.concatenate([[0], np.cumsum(of_lists)])
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column)
    return column


def _tensors(field: Field, column: pa.Array) -> Values:
    if _is_text(column.type):
        column = _from_text(field, column)
    rows, first = len(column), None
    sizes: list[int] = []
    while _is_list(column.type):
        inner = column.flatten()
        counts = _counts(column)
        if first is None:
            first = counts
        elif len(set(counts.tolist())) > 1:
            raise InvalidInput(field.name, "its rows differ in shape")
        else:
            sizes.append(int(counts[0]) if len(counts) else _fixed(field, len(sizes) + 1))
        if inner.null_count:
            raise InvalidInput(field.name, "a value is missing")
        column = inner
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and not (
        pa.types.is_boolean(column.type)
    ):
        raise InvalidInput(field.name, f"expected numbers, got a column of {column.type}")
    flat = cast(column.to_numpy(zero_copy_only=False), field.dtype, field.name)
    if first is None:
        return _shaped(field, flat.reshape(rows))
    if len(first) and (first == first[0]).all():
        return _shaped(field, flat.reshape(rows, int(first[0]), *sizes))
    if not len(first):
        return _shaped(field, flat.reshape(0, _fixed(field, 0), *sizes))
    field.check_finite(flat, field.name)
    ends = np.cumsum(first)[:-1]
    ragged = np.split(flat.reshape(int(first.sum()), *sizes), ends)
    for array in ragged:
        field.check_shape(array.shape, field.name)
    return ragged


def _shaped(field: Field, array: Array) -> Array:
    """`array` with a row's dimensions as the field has them, where that needs no guess."""
    fixed = [size for size in field.shape if isinstance(size, int)]
    if array.ndim <= 2 and len(fixed) == len(field.shape):
        width = math.prod(fixed)
        if array.ndim == 2 and (array.shape[1] == width or not len(array)):
            array = array.reshape(len(array), *fixed)
    field.check_shape(array.shape[1:], field.name)
    field.check_finite(array, field.name, columns=True)
    return array


def _fixed(field: Field, axis: int) -> int:
    """A dimension of no rows, of which nothing is known."""
    size = field.shape[axis] if axis < len(field.shape) else 0
    return size if isinstance(size, int) else 0


def _counts(column: pa.Array) -> Array:
    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    counts: Array = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    return counts


def _from_text(field: Field, column: pa.Array) -> pa.Array:
    """Text as numbers: one as it stands, several as a JSON list."""
    if not field.shape:
        try:
            return pc.cast(pc.utf8_trim_whitespace(column), arrow_type(field))
        except pa.ArrowInvalid:
            raise InvalidInput(field.name, f"not a number: {_first(column)}") from None
    try:
        return pa.array(_loads(column.to_pylist()), arrow_type(field))
    except (ValueError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise InvalidInput(field.name, f"not a JSON list of numbers: {_first(column)}") from None


def _loads(texts: list[str]) -> list[Any]:
    """Lists of numbers, four times as fast as by `json`; which also knows NaN, and so is asked."""
    try:
        return list(map(orjson.loads, texts))
    except orjson.JSONDecodeError:
        return list(map(json.loads, texts))


def _json_values(field: Field, column: pa.Array) -> list[Any]:
    if not _is_text(column.type):
        return list(column.to_pylist())
    try:
        return [json.loads(text) for text in column.to_pylist()]
    except ValueError:
        raise InvalidInput(field.name, f"not a JSON value: {_first(column)}") from None


def _from_base64(field: Field, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(field.name, "expected bytes, as base64") from None


def _first(column: pa.Array) -> str:
    return repr(column[0].as_py()[:80]) if len(column) else "empty"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
