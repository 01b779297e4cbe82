"""Records to batch tensors and back, shared by all torch formats.

One stack per field, one copy to the device, one forward pass, one copy back per output; rows
are views on that copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headrace.errors import BadOutput, PackageError
from headrace.job import Outcome
from headrace.runtimes.collated import Answer, Collated, collate, cut_back, joined
from headrace.signature import Array, Field, Record, Signature

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
        if not records:
            return []
        return self.infer_batch(collated(self._signature.inputs, records)).outcomes()

    def infer_batch(self, batch: Collated) -> Answer:
        """See `headrace.runtimes.TensorsModel.infer_batch`."""
        size = self._batch or len(batch)
        return joined(
            [self._run(batch.part(at, at + size), size) for at in range(0, len(batch), size)]
        )

    def close(self) -> None:
        """Drop the model and give cached device memory back."""
        self._call = None
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.empty_cache()

    def _run(self, batch: Collated, size: int) -> Answer:
        """One forward pass of `size` rows; the last record is repeated to fill it up."""
        if self._call is None:
            raise RuntimeError("the model is closed")
        rows, columns = len(batch), batch.arrays
        if size > rows:
            columns = {name: _repeat_last(column, size) for name, column in columns.items()}
        with torch.inference_mode():
            answer = self._call(to_device(columns, self._device))
            outputs = name_outputs(answer, [field.name for field in self._signature.outputs])
            host = {name: to_host(tensor) for name, tensor in outputs.items()}
        for field in self._signature.outputs:
            check_column(field, host[field.name], size)
        if size > rows:
            host = {name: column[:rows] for name, column in host.items()}
        return cut_back(self._signature.outputs, host, batch)


def collated(fields: Sequence[Field], records: Sequence[Record]) -> Collated:
    """records: validated, in one bucket, not empty."""
    return collate(fields, {f.name: [record[f.name] for record in records] for f in fields})


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


def _repeat_last(column: Array, size: int) -> Array:
    return np.concatenate([column, np.repeat(column[-1:], size - len(column), axis=0)])
