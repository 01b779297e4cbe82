"""Records to batch tensors and back, shared by all torch formats.

One stack per field, one copy to the device, one forward pass, one copy back per output; rows
are views on that copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headrace.errors import BadOutput, InvalidInput, PackageError
from headrace.job import Done, Failed, Outcome
from headrace.signature import Array, Field, Record, Signature, first_not_finite

Call = Callable[[dict[str, torch.Tensor]], Any]
"""Runs the model on named batch tensors; returns a tensor, a sequence or a mapping of them."""


class TensorModel:
    """A torch model behind the `headrace.runtimes.Model` protocol.

    call: the model, on `device`. memory: bytes of its parameters and buffers.
    batch: the only batch size the model takes; None where it takes any.
    """

    def __init__(
        self,
        call: Call,
        signature: Signature,
        device: torch.device,
        memory: int,
        batch: int | None = None,
    ) -> None:
        self._call: Call | None = call
        self._signature = signature
        self._device = device
        self._batch = batch
        self.memory = memory

    def infer(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """See `headrace.runtimes.Model.infer`."""
        if self._batch is None:
            return self._run(records, len(records))
        outcomes: list[Outcome] = []
        for start in range(0, len(records), self._batch):
            outcomes += self._run(records[start : start + self._batch], self._batch)
        return outcomes

    def close(self) -> None:
        """Drop the model and give cached device memory back."""
        self._call = None
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.empty_cache()

    def _run(self, records: Sequence[Record], size: int) -> list[Outcome]:
        """One forward pass of `size` rows; the last record is repeated to fill it up."""
        if self._call is None:
            raise RuntimeError("the model is closed")
        if not records:
            return []
        columns, sizes = collate(self._signature.inputs, records)
        if size > len(records):
            columns = {name: _repeat_last(column, size) for name, column in columns.items()}
        with torch.inference_mode():
            answer = self._call(to_device(columns, self._device))
            outputs = name_outputs(answer, [field.name for field in self._signature.outputs])
            host = {name: to_host(tensor) for name, tensor in outputs.items()}
        for field in self._signature.outputs:
            check_column(field, host[field.name], size)
        return split(self._signature.outputs, host, sizes)


def collate(
    fields: Sequence[Field], records: Sequence[Record]
) -> tuple[dict[str, Array], list[dict[str, int]]]:
    """Batch arrays by field name (records first), and each record's own padded sizes.

    records: validated, in one bucket, not empty.
    """
    columns: dict[str, Array] = {}
    sizes: list[dict[str, int]] = [{} for _ in records]
    for field in fields:
        values: list[Array] = [record[field.name] for record in records]
        if field.pad is None:
            columns[field.name] = np.stack(values)
            continue
        for value, own in zip(values, sizes, strict=True):
            for dim, extent in zip(field.shape, value.shape, strict=True):
                if isinstance(dim, str):
                    own[dim] = extent
        columns[field.name] = _stack_padded(values, field.pad)
    return columns, sizes


def to_device(columns: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays (fresh, writable) as tensors on `device`, without waiting for the copy."""
    return {
        name: torch.from_numpy(column).to(device, non_blocking=True)
        for name, column in columns.items()
    }


def to_host(tensor: torch.Tensor) -> Array:
    """A tensor as an array; bfloat16 and the float8 kinds, which numpy lacks, as float32."""
    if tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS:
        tensor = tensor.float()
    array: Array = tensor.detach().cpu().contiguous().numpy()
    return array


_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)


def observe(call: Call, columns: Mapping[str, Array], device: torch.device) -> dict[str, Array]:
    """The outputs of a model whose signature is not known, under names of their own.

    A single tensor is ``output``, a sequence ``output_0``…, a mapping keeps its keys. Raises
    BadOutput where an output is no tensor with a row per record.
    """
    rows = len(next(iter(columns.values())))
    with torch.inference_mode():
        answer = call(to_device(columns, device))
        names = output_names(answer)
        host = {name: to_host(value) for name, value in name_outputs(answer, names).items()}
    for name, column in host.items():
        check_column(Field(name, column.dtype.name, column.shape[1:]), column, rows)
    return host


def output_names(answer: Any) -> list[str]:
    """Names for the outputs in a model's answer; see `observe`."""
    if isinstance(answer, Mapping):
        return [str(name) for name in answer]
    count = len(answer) if isinstance(answer, tuple | list) else 1
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def name_outputs(answer: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """A model's answer as tensors by output name.

    answer: a tensor, a mapping by name, or a sequence in the order of `names`.
    Raises BadOutput where names, number or kind differ.
    """
    if isinstance(answer, torch.Tensor):
        answer = (answer,)
    if isinstance(answer, Mapping):
        named = {name: answer[name] for name in names if name in answer}
        if len(named) != len(names) or len(answer) != len(names):
            raise BadOutput(
                f"the model returned the outputs {', '.join(map(str, answer))}; "
                f"its signature has {', '.join(names)}"
            )
    elif isinstance(answer, tuple | list):
        if len(answer) != len(names):
            raise BadOutput(
                f"the model returned {len(answer)} outputs; its signature has {', '.join(names)}"
            )
        named = dict(zip(names, answer, strict=True))
    else:
        raise BadOutput(f"the model returned a {type(answer).__name__}; expected tensors")
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise BadOutput(f"outputs.{name}: expected a tensor, got a {type(value).__name__}")
    return named


def check_column(field: Field, column: Array, rows: int) -> None:
    """Raises BadOutput unless `column` has `rows` rows of the field's dtype and shape."""
    where = f"outputs.{field.name}"
    if column.ndim == 0 or len(column) != rows:
        shown = "a scalar" if column.ndim == 0 else f"{len(column)} rows"
        raise BadOutput(f"{where}: the model returned {shown} for {rows} records")
    if column.dtype.name != field.dtype:
        raise BadOutput(f"{where}: expected {field.dtype}, the model returned {column.dtype.name}")
    shape = column.shape[1:]
    if len(shape) != len(field.shape) or any(
        isinstance(want, int) and want != got for want, got in zip(field.shape, shape, strict=True)
    ):
        raise BadOutput(
            f"{where}: expected {field} for one record, the model returned {list(shape)}"
        )


def split(
    fields: Sequence[Field], columns: Mapping[str, Array], sizes: Sequence[Mapping[str, int]]
) -> list[Outcome]:
    """Rows as outcomes; dimensions that were padded are cut back to the record's own size.

    A row with a NaN where the signature takes none fails alone. Raises BadOutput where a padded
    dimension did not come back as long as it went in.
    """
    longest: dict[str, int] = {}
    for own in sizes:
        for dim, extent in own.items():
            longest[dim] = max(extent, longest.get(dim, 0))
    cuts = [
        [dim if isinstance(dim, str) and dim in longest else None for dim in field.shape]
        for field in fields
    ]
    for field, cut in zip(fields, cuts, strict=True):
        for name, got in zip(cut, columns[field.name].shape[1:], strict=True):
            if name is not None and got != longest[name]:
                raise BadOutput(
                    f"outputs.{field.name}: dimension {name!r} went in as {longest[name]} and "
                    f"came back as {got}"
                )
    # What is padded away may hold anything, so a column tells only that there are rows to check.
    suspects = [f for f in fields if f.finite and first_not_finite(columns[f.name]) is not None]
    outcomes: list[Outcome] = []
    for row, own in enumerate(sizes):
        outputs: dict[str, Any] = {}
        for field, cut in zip(fields, cuts, strict=True):
            value = columns[field.name][row]
            if any(cut):
                value = value[tuple(slice(own[dim] if dim else None) for dim in cut)]
            outputs[field.name] = np.asarray(value)
        outcomes.append(_not_finite(suspects, outputs) or Done(outputs))
    return outcomes


def _not_finite(fields: Sequence[Field], outputs: Mapping[str, Array]) -> Failed | None:
    for field in fields:
        try:
            field.check_finite(outputs[field.name], f"outputs.{field.name}")
        except InvalidInput as error:
            return Failed(BadOutput.code, str(error))
    return None


def weight_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of the storages behind `tensors`, shared ones counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor.layout == torch.strided
    }
    return sum(storages.values())


def other_floats(
    columns: Mapping[str, Array], weights: Iterable[torch.Tensor], owner: str
) -> PackageError | None:
    """What to tell of a model that raised, where inputs are floats of another size than it has.

    numpy makes float64 by default, and torch casts nothing by itself.
    """
    own = {str(w.dtype).removeprefix("torch.") for w in weights if w.is_floating_point()}
    for name, column in columns.items():
        if column.dtype.kind != "f" or not own or column.dtype.name in own:
            continue
        wanted = " and ".join(sorted(own))
        advice = f"convert it, with .astype(numpy.{wanted})"
        if own.isdisjoint(("float16", "float32", "float64")):
            advice = "numpy has no such dtype: take float32 and convert it in forward"
        return PackageError(
            f"example: {name}",
            f"is {column.dtype.name}, and the parameters of {owner} are {wanted}; {advice}",
        )
    return None


def open_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:N``. Raises PackageError where the host has no such device."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise PackageError(f"device {name}", f"cannot be used ({reason})") from None
    return device


def _stack_padded(values: Sequence[Array], pad: float) -> Array:
    shape = np.max([value.shape for value in values], axis=0).astype(int)
    if all(value.shape == tuple(shape) for value in values):
        return np.stack(values)
    column: Array = np.full((len(values), *shape), pad, dtype=values[0].dtype)
    for row, value in enumerate(values):
        place: tuple[int | slice, ...] = (row, *map(slice, value.shape))
        column[place] = value
    return column


def _repeat_last(column: Array, size: int) -> Array:
    return np.concatenate([column, np.repeat(column[-1:], size - len(column), axis=0)])
