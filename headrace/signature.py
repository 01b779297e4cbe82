"""What a model takes and gives, record by record. Pure.

A signature describes **one record**: the batch dimension is never written. A dimension is a
whole number, or a name such as ``"tokens"`` that varies from record to record; within one
record the same name means the same size. A field with ``pad`` may be padded along its named
dimensions so that records of different length share a batch; without it only records of
equal shape do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import InvalidInput

Array = npt.NDArray[Any]
Value = Any
"""A tensor (numpy array), bytes, str, or a JSON value, as the field's dtype says."""
Record = Mapping[str, Value]
"""The fields of one job, by name."""

TENSOR_DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "float16 float32 float64 complex64 complex128".split()
)
PLAIN_DTYPES = frozenset({"bytes", "string", "json"})


@dataclass(frozen=True, slots=True)
class Field:
    """One named input or output of one record.

    dtype: a numpy dtype name (see TENSOR_DTYPES), or ``bytes``, ``string``, ``json``.
    shape: without the batch dimension; a str is a dimension that varies. () is a scalar.
    pad: the value that fills a varying dimension up to the batch's longest; None forbids it.
    finite: whether NaN and infinities are refused.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] = ()
    pad: float | None = None
    finite: bool = False

    @property
    def is_tensor(self) -> bool:
        """Whether values are numpy arrays."""
        return self.dtype in TENSOR_DTYPES

    def __str__(self) -> str:
        if not self.is_tensor:
            return f"{self.name}: {self.dtype}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def check(self, value: Value, where: str) -> Value:
        """`value` as this field stores it: a C-contiguous array of the exact dtype, or plain.

        Raises InvalidInput, naming `where`.
        """
        if self.dtype == "bytes":
            if isinstance(value, bytes | bytearray | memoryview):
                return bytes(value)
            raise InvalidInput(where, f"expected bytes, got {_kind(value)}")
        if self.dtype == "string":
            if isinstance(value, str):
                return value
            raise InvalidInput(where, f"expected a string, got {_kind(value)}")
        if self.dtype == "json":
            return _check_json(value, where)
        array = cast(to_array(value, where), self.dtype, where)
        self.check_shape(array.shape, where)
        self.check_finite(array, where)
        return array

    def check_shape(self, shape: tuple[int, ...], where: str) -> None:
        """Raises InvalidInput unless `shape` (of one record) fits."""
        if len(shape) != len(self.shape) or any(
            isinstance(want, int) and want != got
            for want, got in zip(self.shape, shape, strict=True)
        ):
            raise InvalidInput(
                where, f"expected shape {_show(self.shape)} for one record, got {_show(shape)}"
            )

    def check_finite(self, array: Array, where: str, *, columns: bool = False) -> None:
        """Raises InvalidInput with the index of the first NaN or infinity, if they are refused.

        columns: the first dimension counts records.
        """
        if not self.finite or (found := first_not_finite(array)) is None:
            return
        value, index = array[found], list(found)
        if columns:
            where = f"{where}[{index.pop(0)}]"
        place = f" at {_show(index)}" if index else ""
        raise InvalidInput(where, f"{value}{place}; {self.name} takes finite numbers only")

    def bind(self, shape: tuple[int, ...], sizes: dict[str, int], where: str) -> None:
        """Record what this record's named dimensions are; raise where two fields disagree."""
        for want, got in zip(self.shape, shape, strict=True):
            if isinstance(want, str) and sizes.setdefault(want, got) != got:
                raise InvalidInput(
                    where, f"dimension {want!r} is {got} here and {sizes[want]} elsewhere"
                )


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs a model takes and the outputs it gives, in the model's order."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    def check(self, record: Any, where: str = "inputs") -> dict[str, Value]:
        """One record's inputs, validated and in canonical form, in the model's order.

        record: a mapping by field name; a bare value serves a model with one input.
        Raises InvalidInput with the path of the wrong field below `where`.
        """
        return _check_fields(self.inputs, self._by_name(record, where), where)

    def check_output(self, record: Mapping[str, Value], where: str = "outputs") -> dict[str, Value]:
        """Likewise for what a model returned."""
        return _check_fields(self.outputs, record, where)

    def check_columns(
        self, columns: Any, where: str = "inputs"
    ) -> tuple[int, Iterator[dict[str, Value]]]:
        """Many records given as arrays with a leading record dimension.

        The arrays are validated once, as a whole; rows are views. Fields that are no tensors
        are sequences. Returns the number of records and an iterator over them.
        """
        columns = self._by_name(columns, where)
        _check_names(self.inputs, columns, where)
        checked: list[Any] = []
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for field in self.inputs:
            place = f"{where}.{field.name}"
            column = columns[field.name]
            if field.is_tensor:
                array = cast(to_array(column, place), field.dtype, place)
                if array.ndim == 0:
                    raise InvalidInput(place, "expected a leading dimension that counts records")
                field.check_shape(array.shape[1:], place)
                field.bind(array.shape[1:], sizes, place)
                field.check_finite(array, place, columns=True)
                checked.append(array)
            else:
                if isinstance(column, str | bytes) or not isinstance(column, Sequence):
                    raise InvalidInput(place, f"expected a sequence of {field.dtype}")
                checked.append([field.check(v, f"{place}[{i}]") for i, v in enumerate(column)])
            counts[field.name] = len(checked[-1])
        if len(set(counts.values())) != 1:
            raise InvalidInput(where, f"fields differ in their number of records: {counts}")
        names = [field.name for field in self.inputs]
        rows = (
            dict(zip(names, (column[i] for column in checked), strict=True))
            for i in range(len(checked[0]))
        )
        return len(checked[0]), rows

    def bucket(self, record: Record) -> tuple[Any, ...]:
        """What two records must share to run in one batch: every dimension not padded away."""
        return tuple(
            tuple(
                None if isinstance(dim, str) and field.pad is not None else size
                for dim, size in zip(field.shape, record[field.name].shape, strict=True)
            )
            for field in self.inputs
            if field.is_tensor
        )

    def length(self, record: Record) -> int:
        """The record's tokens: its longest padded dimension, 1 where nothing is padded."""
        return max(
            (
                size
                for field in self.inputs
                if field.is_tensor and field.pad is not None
                for dim, size in zip(field.shape, record[field.name].shape, strict=True)
                if isinstance(dim, str)
            ),
            default=1,
        )

    def sizes(self, record: Record) -> dict[str, int]:
        """The named dimensions of a validated record's inputs."""
        sizes: dict[str, int] = {}
        for field in self.inputs:
            if field.is_tensor:
                field.bind(record[field.name].shape, sizes, field.name)
        return sizes

    def _by_name(self, record: Any, where: str) -> Mapping[str, Any]:
        if isinstance(record, Mapping):
            return record
        if len(self.inputs) == 1:
            return {self.inputs[0].name: record}
        names = ", ".join(field.name for field in self.inputs)
        raise InvalidInput(where, f"expected a mapping with the fields {names}")


def padded_tokens(lengths: Iterable[int]) -> int:
    """What a batch of these lengths costs once every record is padded to the longest."""
    sizes = list(lengths)
    return len(sizes) * max(sizes, default=0)


def to_array(value: Any, where: str) -> Array:
    """`value` (array, torch tensor, nested list, number) as a numpy array of numbers."""
    if hasattr(value, "detach"):  # a torch tensor; duck-typed because clients need no torch
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(where, f"not a regular array of numbers ({error})") from None
    if array.dtype.kind not in "biufc":
        raise InvalidInput(where, f"expected numbers, got {_kind(value)} of {array.dtype}")
    return array


def cast(array: Array, dtype: str, where: str) -> Array:
    """`array` as C-contiguous native `dtype`, refusing every loss but float rounding."""
    want = np.dtype(dtype)
    if array.dtype != want:
        if not np.can_cast(array.dtype, want, "same_kind") and not (
            array.dtype.kind in "iu" and want.kind in "iu"
        ):
            raise InvalidInput(where, f"expected {dtype}, got {array.dtype}; convert it yourself")
        with np.errstate(over="ignore"):
            cast_array = array.astype(want)
        if want.kind in "iu" and not np.array_equal(cast_array, array):
            raise InvalidInput(where, f"values do not fit into {dtype}")
        if want.kind in "fc" and not np.array_equal(np.isfinite(cast_array), np.isfinite(array)):
            raise InvalidInput(where, f"values do not fit into {dtype}")
        array = cast_array
    return np.ascontiguousarray(array).reshape(array.shape)


def first_not_finite(array: Array) -> tuple[int, ...] | None:
    """The index of the first NaN or infinity, None where there is none."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    return tuple(int(index) for index in np.unravel_index(finite.argmin(), array.shape))


def _check_fields(
    fields: Sequence[Field], record: Mapping[str, Any], where: str
) -> dict[str, Value]:
    _check_names(fields, record, where)
    sizes: dict[str, int] = {}
    checked: dict[str, Value] = {}
    for field in fields:
        place = f"{where}.{field.name}"
        checked[field.name] = value = field.check(record[field.name], place)
        if field.is_tensor:
            field.bind(value.shape, sizes, place)
    return checked


def _check_names(fields: Sequence[Field], record: Mapping[str, Any], where: str) -> None:
    for field in fields:
        if field.name not in record:
            raise InvalidInput(f"{where}.{field.name}", f"missing; expected {field}")
    if len(record) != len(fields):
        names = {field.name for field in fields}
        extra = next(str(name) for name in record if name not in names)
        raise InvalidInput(
            f"{where}.{extra}", f"unknown field; the model has {', '.join(map(str, fields))}"
        )


def _check_json(value: Any, where: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(where, f"not a JSON value ({error})") from None


def _kind(value: Any) -> str:
    return type(value).__name__


def _show(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
