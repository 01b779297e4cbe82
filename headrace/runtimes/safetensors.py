"""safetensors weights (data) and a handler that makes a module of them (code).

The handler has one function::

    def build(weights, device):
        # weights: dict[str, torch.Tensor], already on `device`.
        # Returns a torch.nn.Module, or any callable, that takes batch tensors by input name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.errors import NotInstalled, PackageError
from headrace.runtimes import Loadable, Model
from headrace.runtimes.handlers import import_handler

try:
    import safetensors
    import safetensors.torch
    import torch

    from headrace.runtimes import tensors
except ImportError:
    raise NotInstalled("torch with safetensors", "worker") from None


def load(package: Loadable, device: str) -> Model:
    """See `headrace.runtimes.load`."""
    where = tensors.open_device(device)
    call, weights = open_call(package, where)
    return tensors.TensorModel(call, package.signature, where, tensors.weight_bytes(weights))


def open_call(package: Loadable, device: torch.device) -> tuple[tensors.Call, list[torch.Tensor]]:
    """What the handler builds of the weights, and those it holds. Runs the handler.

    Raises PackageError.
    """
    path = package.root / package.weights
    try:
        weights = safetensors.torch.load_file(path, device=str(device))
    except (OSError, safetensors.SafetensorError) as error:
        raise PackageError(path.name, f"not a safetensors file ({error})") from None
    model = _build(package, weights, device)
    held = [*weights.values()]
    if isinstance(model, torch.nn.Module):
        model = model.to(device).eval()
        held = [*model.parameters(), *model.buffers()]

    def call(inputs: dict[str, torch.Tensor]) -> Any:
        return model(**inputs)

    return call, held


def _build(
    package: Loadable, weights: dict[str, torch.Tensor], device: torch.device
) -> Callable[..., Any]:
    if package.handler is None:
        raise PackageError("model.toml: handler", "safetensors weights need one")
    module = import_handler(package.root / package.handler, package.code[package.handler])
    build = getattr(module, "build", None)
    if not callable(build):
        raise PackageError(package.handler, "has no function build(weights, device)")
    model = build(weights, str(device))
    if not callable(model):
        raise PackageError(
            package.handler, f"build returned a {type(model).__name__}; expected a module"
        )
    return model  # type: ignore[no-any-return]  # just checked
