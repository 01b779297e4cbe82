"""Finds out the signature of a model that has none written yet: reads it, or runs the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.errors import PackageError
from headrace.job import Done
from headrace.registry import signatures
from headrace.registry.package import Package
from headrace.signature import Array, Field, Record, Signature

if TYPE_CHECKING:
    from headrace.runtimes.tensors import Call

_GIVEN_NAME = re.compile(r"output(_\d+)?")
"""What `tensors.observe` calls an output that has no name of its own."""
_PROBED = 4
"""Records that are run to see what comes out."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller says about the signature; see `init_package`."""

    shapes: signatures.Shapes
    pad: Mapping[str, float]
    outputs: Sequence[str] | None


def find_signature(
    package: Package, columns: dict[str, Any], hints: Hints, device: str
) -> tuple[Signature, dict[str, Any]]:
    """The signature, and the example's columns under the names of its inputs.

    package: a draft without signature, whose code is allowed. columns: from
    `signatures.columns_of`. Raises PackageError, and whatever the model raises.
    """
    match package.format:
        case "torch-export":
            signature = signatures.rename(_exported(package), hints.shapes, hints.pad)
            columns = _by_position(columns, [field.name for field in signature.inputs])
            _check_hints(hints, [field.name for field in signature.inputs])
            fields = signature.outputs
        case _:
            _check_hints(hints, list(columns))
            inputs = signatures.input_fields(columns, hints.shapes, hints.pad)
            signature = Signature(inputs, ())
            records = [
                record for record, _ in zip(_rows(signature, columns), range(_PROBED), strict=False)
            ]
            if package.format == "python":
                fields = _answered(package, records, device)
            else:
                fields = _observed(package, inputs, records, device)
    return Signature(signature.inputs, _named(fields, hints.outputs)), columns


def _exported(package: Package) -> Signature:
    from headrace.runtimes import torch_export

    path = package.root / package.weights
    return torch_export.read_signature(torch_export.read(path), path)


def _observed(
    package: Package, inputs: Sequence[Field], records: Sequence[Record], device: str
) -> tuple[Field, ...]:
    """Outputs of a torch model; a dimension that follows an input's is the same one."""
    from headrace.runtimes import safetensors, tensors, torchscript

    where = tensors.open_device(device)
    names = [field.name for field in inputs]
    if package.format == "safetensors":
        call, weights = safetensors.open_call(package, where)
    else:
        call, weights = torchscript.open_call(package, names, where)
    try:
        outputs = _run(call, inputs, records, device)
    except Exception as error:
        example = {name: records[0][name] for name in names}
        if told := tensors.other_floats(example, weights, package.weights):
            raise told from error
        raise
    shorter: dict[str, Mapping[str, Array]] = {}
    for dim in signatures.varying(inputs):
        short = [signatures.shorten(inputs, record, dim) for record in records]
        shorter[dim] = _run(call, inputs, short, device)
    return signatures.tensor_outputs(outputs, shorter)


def _run(
    call: Call, inputs: Sequence[Field], records: Sequence[Record], device: str
) -> dict[str, Array]:
    from headrace.runtimes import tensors

    where = tensors.open_device(device)
    columns = tensors.collated(inputs, records).arrays
    return tensors.observe(call, columns, where)


def _answered(package: Package, records: Sequence[Record], device: str) -> tuple[Field, ...]:
    """Outputs of a Python handler."""
    from headrace.runtimes import python

    answers = []
    for answer in python.forward(python.open_handler(package, device), records):
        outputs = answer.outputs if isinstance(answer, Done) else answer
        if not isinstance(outputs, Mapping) or not outputs:
            raise PackageError(
                package.handler or "", f"forward answered {outputs!r} for an example record"
            )
        answers.append(outputs)
    return signatures.plain_outputs(answers, package.handler or "")


def _rows(signature: Signature, columns: dict[str, Any]) -> Iterator[Record]:
    return signature.check_columns(columns, "example")[1]


def _by_position(columns: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """numpy.savez names what it is given without a name ``arr_0``, ``arr_1``…"""
    if set(columns) == {f"arr_{i}" for i in range(len(columns))} and len(columns) == len(names):
        return {name: columns[f"arr_{i}"] for i, name in enumerate(names)}
    if set(columns) != set(names):
        raise PackageError(
            "example", f"has {', '.join(columns)}; the model takes {', '.join(names)}"
        )
    return columns


def _check_hints(hints: Hints, inputs: Sequence[str]) -> None:
    for what, given in (("shape", hints.shapes), ("pad", hints.pad)):
        for name in given:
            if name not in inputs:
                raise PackageError(f"{what} of {name}", f"the inputs are {', '.join(inputs)}")


def _named(fields: Sequence[Field], names: Sequence[str] | None) -> tuple[Field, ...]:
    own = [field.name for field in fields]
    if names is None or list(names) == own:
        return tuple(fields)
    if not all(_GIVEN_NAME.fullmatch(name) for name in own):
        raise PackageError("outputs", f"the model names its outputs itself: {', '.join(own)}")
    if len(names) != len(fields):
        raise PackageError(
            "outputs", f"{len(names)} names for the {len(fields)} outputs of the model"
        )
    return tuple(replace(field, name=name) for name, field in zip(names, fields, strict=True))
