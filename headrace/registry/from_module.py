"""Makes a package straight from a torch module. Needs torch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from headrace.registry import signatures
from headrace.registry.init_package import init_package, slug
from headrace.registry.package import Package
from headrace.runtimes import torch_export


def package_module(
    module: torch.nn.Module,
    example: Mapping[str, Any],
    directory: str | Path,
    *,
    shapes: signatures.Shapes | None = None,
    **options: Any,
) -> Package:
    """Export `module` for any batch size and package it.

    example: arrays with a leading record dimension of at least two (torch takes a size of one
    for a constant). Their names become those of the model's inputs: they are ``forward``'s
    parameters, or others as many as it takes, in its order. shapes, options: as in
    `init_package`; a named dimension is exported as dynamic. The module is exported in eval
    mode and left as it was.

    Raises PackageError where the names do not fit, or torch cannot export it.
    """
    columns = signatures.columns_of(example)
    fields = signatures.input_fields(columns, shapes or {}, {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        torch_export.export(module, fields, columns, path)
        options.setdefault("name", slug(Path(directory).name))
        return init_package(path, columns, directory, shapes=shapes, **options)
