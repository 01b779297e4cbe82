"""Makes a package from a model file and an example.

The signature comes from the exported program where there is one, else from what the model
answers; golden.jsonl from running a few records of the example.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from headrace import runtimes
from headrace.errors import InvalidInput, PackageError
from headrace.job import Done
from headrace.registry import golden, probe, signatures
from headrace.registry.manifest import (
    Batching,
    Manifest,
    Tolerance,
    manifest_from_dict,
    manifest_to_dict,
)
from headrace.registry.package import (
    GOLDEN,
    Package,
    package_digest,
    read_package,
    write_manifest,
)
from headrace.runtimes import Model
from headrace.runtimes.audit import find_code
from headrace.signature import Record, Signature
from headrace.storage.digests import sha256_file

_FORMATS = {
    ".pt2": "torch-export",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".safetensors": "safetensors",
}


def init_package(
    source: str | Path | None,
    example: Mapping[str, Any],
    directory: str | Path,
    *,
    name: str | None = None,
    handler: str | Path | None = None,
    files: Sequence[str | Path] = (),
    shapes: signatures.Shapes | None = None,
    pad: Mapping[str, float] | None = None,
    outputs: Sequence[str] | None = None,
    pool: str = "default",
    description: str = "",
    requirements: Sequence[str] = (),
    batching: Batching | None = None,
    tolerance: Tolerance | None = None,
    device: str = "cpu",
    goldens: int = 4,
    allow_code: Iterable[str] | Literal[True] = (),
) -> Package:
    """Write a package into the new folder `directory`, run it, and return it.

    source: the weights; None where a handler is all there is. example: columns by input name
    with a leading record dimension (keys ``arr_0``, ``arr_1``… go by position); plain values
    are lists. handler, files: copied beside the weights. shapes: shape of one record by input
    name, with names for dimensions that vary, such as ``{"ids": ("tokens",)}``. pad: filling
    value by input name. outputs: names for the outputs of a model that gives none. goldens:
    how many example records become golden. allow_code: as in `headrace.load`.

    Raises PackageError (also where `directory` exists, which is never overwritten),
    CodeNotAllowed before code runs that is not allowed, and whatever the model raises.
    """
    target = Path(directory)
    if target.exists():
        raise PackageError(str(target), "exists; remove it or choose another folder")
    hints = probe.Hints(shapes or {}, pad or {}, outputs)
    trust = None if allow_code is True else frozenset(allow_code)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        root = Path(folder) / "package"
        root.mkdir()
        draft = Manifest(
            name=_name(name, source, target),
            format=_format(source, handler),
            signature=Signature((), ()),
            weights=_copy(source, root) or "",
            handler=_copy(handler, root),
            files=tuple(filter(None, (_copy(file, root) for file in files))),
            batching=batching or Batching(),
            tolerance=tolerance or Tolerance(),
            pool=pool,
            requirements=tuple(requirements),
            description=description,
        )
        package = _fill(root, draft, signatures.columns_of(example), hints, device, goldens, trust)
        root.rename(target)
    return replace(package, root=target)


def _fill(
    root: Path,
    draft: Manifest,
    columns: dict[str, Any],
    hints: probe.Hints,
    device: str,
    goldens: int,
    trust: frozenset[str] | None,
) -> Package:
    """Add model.toml and golden.jsonl to the files in `root`. trust: None allows their code."""
    unsigned = _draft_package(root, draft)
    allowed = frozenset(unsigned.code.values()) if trust is None else trust
    runtimes.require_allowed(unsigned.code, allowed)
    signature, columns = probe.find_signature(unsigned, columns, hints, device)
    # Through its written form, so that it meets every check that a package does.
    manifest = manifest_from_dict(manifest_to_dict(replace(draft, signature=signature)))
    write_manifest(root, manifest)
    package = replace(unsigned, manifest=manifest)
    model = runtimes.load(package, device, allowed)
    try:
        records = _first_records(signature, columns, goldens)
        outputs = _run(package, model, records)
        golden.write(root, signature, zip(records, outputs, strict=True))
        golden.check(package, model)
    finally:
        model.close()
    return read_package(root)


def _draft_package(root: Path, draft: Manifest) -> Package:
    names = filter(None, [draft.weights, draft.handler, *draft.files])
    files = {name: sha256_file(root / name) for name in names}
    code = find_code(root, draft.format, draft.weights, draft.handler, files)
    return Package(root, draft, files, package_digest(files), code)


def _first_records(signature: Signature, columns: dict[str, Any], count: int) -> list[Record]:
    try:
        total, rows = signature.check_columns(columns, "example")
    except InvalidInput as error:
        raise PackageError(error.field, error.problem) from None
    return list(itertools.islice(rows, max(1, min(count, total))))


def _run(package: Package, model: Model, records: list[Record]) -> list[Record]:
    try:
        outcomes = model.infer(records)
    except Exception as error:
        if package.format == "torch-export":
            from headrace.runtimes import torch_export

            if told := torch_export.other_floats(package.root / package.weights, records[0]):
                raise told from error
        raise
    outputs: list[Record] = []
    for outcome in outcomes:
        if not isinstance(outcome, Done):
            raise PackageError("example", f"the model answered {outcome}")
        outputs.append(package.signature.check_output(outcome.outputs))
    return outputs


def _format(source: str | Path | None, handler: str | Path | None) -> str:
    if source is None:
        if handler is None:
            raise PackageError("init", "needs weights, a handler, or both")
        return "python"
    suffix = Path(source).suffix
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    if handler is not None:
        return "python"
    raise PackageError(
        Path(source).name,
        f"unknown kind of weights {suffix!r}; known are {', '.join(_FORMATS)}, and any file "
        "that a handler reads",
    )


def _copy(source: str | Path | None, root: Path) -> str | None:
    """Copy a file into the package and return its name there."""
    if source is None:
        return None
    path = Path(source)
    if not path.is_file():
        raise PackageError(str(path), "no such file")
    if (root / path.name).exists() or path.name in ("model.toml", GOLDEN):
        raise PackageError(path.name, "one name for two files of the package")
    shutil.copyfile(path, root / path.name)
    return path.name


def _name(name: str | None, source: str | Path | None, target: Path) -> str:
    if name is not None:
        return name
    return slug(Path(source).stem if source is not None else target.name)


def slug(text: str) -> str:
    """`text` as a model's name may be written."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "model"
