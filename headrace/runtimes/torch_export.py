"""torch.export archives (``.pt2``)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import NotInstalled, PackageError
from headrace.runtimes import Loadable, Model
from headrace.signature import TENSOR_DTYPES, Array, Field, Signature

try:
    import torch
    from torch.export import Dim
    from torch.export.graph_signature import (
        ConstantArgument,
        InputKind,
        OutputKind,
        TensorArgument,
    )
    from torch.export.passes import move_to_device_pass
    from torch.utils import _pytree as pytree

    from headrace.runtimes import tensors
    from headrace.runtimes.arguments import called_by
except ImportError:
    raise NotInstalled("torch", "worker") from None


@dataclass(frozen=True, slots=True)
class Program:
    """An exported program, and how it is called.

    inputs: names of the tensors it takes, in its own order. batch: the one batch size that it
    takes, None for any. constants: the values of arguments that are no tensors, by position.
    """

    exported: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    constants: dict[int, Any]
    batch: int | None


def load(package: Loadable, device: str) -> Model:
    """See `headrace.runtimes.load`; the caller has judged whether the archive is allowed."""
    where = tensors.open_device(device)
    program = read(package.root / package.weights)
    names = {field.name for field in package.signature.inputs}
    if names != set(program.inputs):
        raise PackageError(
            "model.toml: inputs",
            f"{package.weights} takes {', '.join(program.inputs)}; got {', '.join(sorted(names))}",
        )
    exported = move_to_device_pass(program.exported, where)
    weights = [*exported.state_dict.values(), *exported.constants.values()]
    return tensors.TensorModel(
        _caller(exported, program),
        package.signature,
        where,
        tensors.weight_bytes([value for value in weights if isinstance(value, torch.Tensor)]),
        program.batch,
    )


def read(path: Path) -> Program:
    """The program in an archive that was judged harmless or is allowed. Raises PackageError."""
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise PackageError(path.name, f"torch.export cannot load it ({error})") from error
    inputs: list[str] = []
    constants: dict[int, Any] = {}
    user_inputs = [
        spec.arg
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    for position, argument in enumerate(user_inputs):
        if isinstance(argument, TensorArgument):
            inputs.append(argument.name)
        elif isinstance(argument, ConstantArgument):
            constants[position] = argument.value
        else:
            raise PackageError(path.name, f"argument {argument.name!r} is no tensor")
    batches = {_shape(exported, name, path)[0] for name in inputs}
    if len(batches) != 1:
        raise PackageError(
            path.name,
            "its inputs differ in their first dimension, which must count the records "
            f"(found {', '.join(sorted(map(str, batches)))})",
        )
    batch = batches.pop()
    return Program(exported, tuple(inputs), constants, batch if isinstance(batch, int) else None)


def read_signature(program: Program, path: Path) -> Signature:
    """The signature that the archive itself states; dynamic dimensions are named by position.

    Raises PackageError where an output has no batch dimension or a dtype numpy lacks.
    """
    exported = program.exported
    outputs = [
        spec.arg
        for spec in exported.graph_signature.output_specs
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    batch = str(_shape(exported, program.inputs[0], path)[0])
    names = _output_names(exported, len(outputs), path)
    dims: dict[str, str] = {}
    fields: list[Field] = []
    for name, node in [
        *((name, name) for name in program.inputs),
        *((name, output.name) for name, output in zip(names, outputs, strict=True)),
    ]:
        leading, *shape = _shape(exported, node, path)
        if str(leading) != batch:
            raise PackageError(
                path.name, f"{name}: the first dimension is {leading}, the batch is {batch}"
            )
        for dim in shape:
            if not isinstance(dim, int):
                dims.setdefault(str(dim), f"dim{len(dims) + 1}")
        fields.append(
            Field(
                name,
                _dtype(exported, node, path),
                tuple(dim if isinstance(dim, int) else dims[str(dim)] for dim in shape),
            )
        )
    count = len(program.inputs)
    return Signature(tuple(fields[:count]), tuple(fields[count:]))


def export(
    module: torch.nn.Module, fields: Sequence[Field], columns: Mapping[str, Array], path: Path
) -> None:
    """Write `module` as an archive that takes any batch size, and any size where `fields` vary.

    columns: example arrays, by the parameter names of ``forward`` or in their order (see
    `called_by`); the archive takes them by these names. Raises PackageError.
    """
    if len(next(iter(columns.values()))) < 2:
        raise PackageError("example", "needs two records: torch takes a size of 1 for a constant")
    # Not a named Dim: sizes that the model ties together may then be so.
    dynamic = {
        field.name: {0: Dim.DYNAMIC}
        | {axis: Dim.DYNAMIC for axis, dim in enumerate(field.shape, 1) if isinstance(dim, str)}
        for field in fields
    }
    inputs = {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}
    called = called_by(module, list(columns))
    weights = [*module.parameters(), *module.buffers()]
    told = tensors.other_floats(columns, weights, type(module).__name__)
    training = {name: part.training for name, part in module.named_modules()}
    try:
        called.eval()
        for parameter in itertools.chain(module.parameters(), module.buffers()):
            inputs = {name: tensor.to(parameter.device) for name, tensor in inputs.items()}
            break
        with torch.no_grad():
            program = torch.export.export(called, (), inputs, dynamic_shapes=dynamic)
            if told:
                called(**inputs)  # the export does not tell, and forward may convert them
        torch.export.save(program, path)
    except Exception as error:
        problem = f"torch cannot export it ({error})"
        raise told or PackageError(type(module).__name__, problem) from error
    finally:
        for name, part in module.named_modules():
            part.training = training[name]


def other_floats(path: Path, columns: Mapping[str, Array]) -> PackageError | None:
    """See `tensors.other_floats`, for the program in an archive that is allowed."""
    exported = read(path).exported
    return tensors.other_floats(columns, exported.state_dict.values(), path.name)


def _caller(exported: torch.export.ExportedProgram, program: Program) -> tensors.Call:
    module = exported.module()
    spec = exported.call_spec.in_spec
    total = len(program.inputs) + len(program.constants)

    def call(inputs: dict[str, torch.Tensor]) -> Any:
        named = iter(program.inputs)
        flat = [
            program.constants[i] if i in program.constants else inputs[next(named)]
            for i in range(total)
        ]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        return module(*args, **kwargs)

    return call


def _shape(exported: torch.export.ExportedProgram, name: str, path: Path) -> tuple[Any, ...]:
    """The dimensions of a value of the graph: int, or the expression of a dynamic one."""
    value = _value(exported, name)
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        raise PackageError(path.name, f"{name} is no tensor with a batch dimension")
    return tuple(dim if isinstance(dim, int) else dim.node.expr for dim in value.shape)


def _dtype(exported: torch.export.ExportedProgram, name: str, path: Path) -> str:
    dtype = _value(exported, name).dtype
    text = str(dtype).removeprefix("torch.")
    if text in TENSOR_DTYPES:
        return text
    if dtype.is_floating_point:
        return "float32"  # see tensors.to_host
    raise PackageError(path.name, f"{name} has the dtype {text}, which numpy lacks")


def _value(exported: torch.export.ExportedProgram, name: str) -> Any:
    return next((node.meta.get("val") for node in exported.graph.nodes if node.name == name), None)


def _output_names(exported: torch.export.ExportedProgram, count: int, path: Path) -> list[str]:
    """Keys of a mapping; ``output`` for a single tensor; ``output_0``… for a sequence."""
    spec = exported.call_spec.out_spec
    if spec is not None:
        if any(not child.is_leaf() for child in spec.children()):
            raise PackageError(path.name, "its outputs are nested; return a tensor, tuple or dict")
        if spec.type is not None and issubclass(spec.type, dict):
            return [str(key) for key in spec.context]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
