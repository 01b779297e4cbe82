"""Which files of a package run code when the model is loaded.

A handler does, TorchScript does, and so does whatever only a handler reads. A torch.export
archive does unless `pt2_audit` finds nothing in it but data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_READ_BY_HEADRACE = frozenset({"model.toml", "golden.jsonl"})


def find_code(
    root: Path, format: str, weights: str, handler: str | None, files: Mapping[str, str]
) -> dict[str, str]:
    """sha256 (hex) by file name of everything in `files` that counts as code.

    files: sha256 by name of all files of the package. Nothing of the package runs here.
    Raises PackageError where the weights are no archive of the format, NotInstalled where
    judging them needs a framework that is missing.
    """
    code = set()
    if handler is not None:
        # What a handler does with a file is its own affair (unpickle it, import it), so to
        # allow the handler must not allow the file to change under it.
        code = set(files) - _READ_BY_HEADRACE
        if format == "safetensors":
            code.discard(weights)
    if format == "torchscript":
        code.add(weights)
    if format == "torch-export":
        from headrace.runtimes import pt2_audit

        if pt2_audit.why_code(root / weights) is not None:
            code.add(weights)
    return {name: files[name] for name in sorted(code)}
