"""TorchScript archives (``.pt``). Loading one runs its code, so it is always code."""

from __future__ import annotations

from typing import Any

from headrace.errors import NotInstalled, PackageError
from headrace.runtimes import Loadable, Model

try:
    import torch

    from headrace.runtimes import tensors
except ImportError:
    raise NotInstalled("torch", "worker") from None


def load(package: Loadable, device: str) -> Model:
    """See `headrace.runtimes.load`. ``forward`` gets the inputs by position."""
    where = tensors.open_device(device)
    names = [field.name for field in package.signature.inputs]
    call, weights = open_call(package, names, where)
    return tensors.TensorModel(call, package.signature, where, tensors.weight_bytes(weights))


def open_call(
    package: Loadable, names: list[str], device: torch.device
) -> tuple[tensors.Call, list[torch.Tensor]]:
    """The script module, called with the inputs in the order of `names`, and its weights.

    Runs its code. Raises PackageError.
    """
    path = package.root / package.weights
    try:
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise PackageError(
            path.name,
            f"not a TorchScript archive ({reason}); "
            "a state dict goes into safetensors with a handler",
        ) from None
    module.eval()

    def call(inputs: dict[str, torch.Tensor]) -> Any:
        return module(*(inputs[name] for name in names))

    return call, [*module.parameters(), *module.buffers()]
