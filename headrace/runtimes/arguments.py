"""Lets a torch module be called by names of the caller's choice."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Sequence
from typing import Any

import torch

from headrace.errors import PackageError


def called_by(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """`module`, or one around it, whose ``forward`` takes its arguments by `names`.

    Where they are parameters of ``forward``, it is `module`. Where none is, and there are as
    many as ``forward`` takes, they stand for its parameters in order: torch.nn.Sequential calls
    its only one ``input``, whatever it is. Raises PackageError where neither fits.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {p.name for p in by_name}
    needed = {p.name for p in parameters if p.default is p.empty and p.kind in _ONE}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if (any_name or known.issuperset(names)) and needed.issubset(names):
        return module
    if known.isdisjoint(names) and len(names) in _counts(parameters):
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise PackageError(f"example: {name}", "is no name that an argument can have")
        return _Renamed(module, names)
    raise PackageError(
        "example",
        f"has {', '.join(names)}; forward of {type(module).__name__} takes "
        f"{', '.join(str(p.replace(annotation=p.empty)) for p in parameters) or 'nothing'}",
    )


_ONE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def _counts(parameters: Sequence[inspect.Parameter]) -> range | tuple[int, ...]:
    """How many arguments in order leave no doubt which is which."""
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return ()
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in ordered)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return range(max(1, needed), 1000)
    return needed, len(ordered)


class _Renamed(torch.nn.Module):
    """Passes what comes by name on by position."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module

        def forward(**inputs: Any) -> Any:
            return module(*(inputs[name] for name in names))

        # torch.export takes the names of a program's inputs from here.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        self.forward = forward
