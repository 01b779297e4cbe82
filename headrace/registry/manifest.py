"""What `model.toml` says: pure data, no file access and no torch.

`manifest_to_dict` and `manifest_from_dict` are its one written form: TOML in a package, JSON
in the registry's table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from headrace.errors import PackageError
from headrace.job import ModelKey
from headrace.registry.reader import Table
from headrace.signature import PLAIN_DTYPES, TENSOR_DTYPES, Field, Signature

FORMATS = ("torch-export", "torchscript", "safetensors", "python")
_NEEDS_HANDLER = frozenset({"safetensors", "python"})
_NEEDS_WEIGHTS = frozenset({"torch-export", "torchscript", "safetensors"})

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""Names of models."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""Names of a package's files; they end up in object keys, and never leave the folder."""
_POOL = re.compile(r"[a-z0-9-]+")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_RESERVED = frozenset({"model.toml", "golden.jsonl"})


@dataclass(frozen=True, slots=True)
class Batching:
    """How many records run at once.

    max_records: at most this many in a batch.
    max_tokens: at most this many padded tokens (records × longest record); None: no bound.
    time_limit: seconds after which a batch counts as hung.
    """

    max_records: int = 64
    max_tokens: int | None = None
    time_limit: float = 60.0


@dataclass(frozen=True, slots=True)
class Retrying:
    """Which errors of the model are worth another run, and when that is due.

    attempts: runs in all; None: ``HEADRACE_MAX_ATTEMPTS``.
    delay, max_delay: seconds; how long to wait at most, after the first run and ever.
    on: names of exception classes, with or without their module; each stands for all classes
    derived from it too.
    """

    attempts: int | None = None
    delay: float = 1.0
    max_delay: float = 300.0
    on: tuple[str, ...] = ("ConnectionError", "TimeoutError")

    def passes(self, error: Exception) -> bool:
        """Whether the error may be gone when the record runs again."""
        names = {
            name
            for kind in type(error).__mro__
            for name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}")
        }
        return not names.isdisjoint(self.on)

    def backoff(self, attempt: int, random: Random) -> float:
        """Seconds to wait after run `attempt`: a bound that doubles each time, with full jitter.

        Records that failed together do not come back together.
        """
        return random.uniform(0, min(self.max_delay, self.delay * 2.0 ** min(attempt - 1, 64)))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far outputs may lie from the golden ones, as in numpy.allclose."""

    rtol: float = 1e-4
    atol: float = 1e-5


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model package.

    format: one of FORMATS. weights: file name in the package ("" where there is none).
    handler: file name of the package's Python code, or None.
    files: names of further files, for the handler to read.
    pool: the group of workers that serves it. requirements: what pip would need, for a reader.
    """

    name: str
    format: str
    signature: Signature
    weights: str = ""
    handler: str | None = None
    batching: Batching = Batching()
    retry: Retrying = Retrying()
    tolerance: Tolerance = Tolerance()
    pool: str = "default"
    requirements: tuple[str, ...] = ()
    description: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A package as the registry holds it: immutable.

    digest: sha256 (hex) over the sorted file digests. files: sha256 (hex) by file name;
    the objects lie at ``models/<name>/<digest>/<file name>``. code: digest by file name of
    every file that runs code when the package is loaded.
    """

    version: int
    digest: str
    manifest: Manifest
    files: Mapping[str, str]
    code: Mapping[str, str]

    @property
    def key(self) -> ModelKey:
        """The name and number that jobs carry."""
        return ModelKey(self.manifest.name, self.version)

    @property
    def object_prefix(self) -> str:
        """Where its files lie in the object store."""
        return f"models/{self.manifest.name}/{self.digest}"


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """The manifest as TOML and JSON can write it; what is absent or empty is left out."""
    batching, retry, tolerance = manifest.batching, manifest.retry, manifest.tolerance
    form = {
        "name": manifest.name,
        "format": manifest.format,
        "description": manifest.description or None,
        "weights": manifest.weights or None,
        "handler": manifest.handler,
        "files": list(manifest.files) or None,
        "pool": manifest.pool,
        "requirements": list(manifest.requirements) or None,
        "batching": _present(
            {
                "max_records": batching.max_records,
                "max_tokens": batching.max_tokens,
                "time_limit": batching.time_limit,
            }
        ),
        "retry": _present(
            {
                "attempts": retry.attempts,
                "delay": retry.delay,
                "max_delay": retry.max_delay,
                "on": list(retry.on),
            }
        ),
        "tolerance": {"rtol": tolerance.rtol, "atol": tolerance.atol},
        "inputs": [_field_to_dict(field) for field in manifest.signature.inputs],
        "outputs": [_field_to_dict(field) for field in manifest.signature.outputs],
    }
    return _present(form)


def manifest_from_dict(form: Mapping[str, Any], where: str = "model.toml") -> Manifest:
    """The manifest back. Raises PackageError naming `where` and the field."""
    table = Table(form, where)
    manifest = Manifest(
        name=table.text("name", NAME),
        format=table.choice("format", FORMATS),
        signature=Signature(_fields(table, "inputs"), _fields(table, "outputs")),
        weights=table.text("weights", FILE_NAME, ""),
        handler=table.text("handler", FILE_NAME, "") or None,
        batching=_batching(table.table("batching")),
        retry=_retrying(table.table("retry")),
        tolerance=_tolerance(table.table("tolerance")),
        pool=table.text("pool", _POOL, "default"),
        requirements=table.texts("requirements"),
        description=table.text("description", None, ""),
        files=table.texts("files", FILE_NAME),
    )
    table.end()
    _check_whole(manifest, where)
    return manifest


def _check_whole(manifest: Manifest, where: str) -> None:
    """What no field shows alone."""
    if manifest.format in _NEEDS_WEIGHTS and not manifest.weights:
        raise PackageError(f"{where}: weights", f"missing; {manifest.format} needs a file")
    if manifest.format in _NEEDS_HANDLER and not manifest.handler:
        raise PackageError(f"{where}: handler", f"missing; {manifest.format} needs a .py file")
    if manifest.format not in _NEEDS_HANDLER and manifest.handler:
        raise PackageError(f"{where}: handler", f"{manifest.format} models have none")
    if manifest.files and not manifest.handler:
        raise PackageError(f"{where}: files", "only a handler reads further files")
    named = [n for n in (manifest.weights, manifest.handler, *manifest.files) if n]
    if len(set(named)) != len(named) or _RESERVED.intersection(named):
        raise PackageError(f"{where}: files", f"one file in two roles: {', '.join(named)}")
    for part in ("inputs", "outputs"):
        fields: tuple[Field, ...] = getattr(manifest.signature, part)
        names = [field.name for field in fields]
        if len(set(names)) != len(names):
            raise PackageError(f"{where}: {part}", "two fields share a name")
        for i, field in enumerate(fields):
            if manifest.format != "python" and not field.is_tensor:
                raise PackageError(
                    f"{where}: {part}[{i}].dtype",
                    f"{manifest.format} models take and give tensors only, not {field.dtype}",
                )


def _fields(table: Table, key: str) -> tuple[Field, ...]:
    return tuple(_field(inner, pads=key == "inputs") for inner in table.tables(key))


def _field(table: Table, pads: bool) -> Field:
    name = table.text("name", _FIELD_NAME)
    dtype = table.choice("dtype", sorted(TENSOR_DTYPES | PLAIN_DTYPES))
    shape = table.shape("shape")
    pad = table.number("pad", 0.0) if table.has("pad") else None
    finite = table.truth("finite", False)
    table.end()
    if shape and dtype in PLAIN_DTYPES:
        raise PackageError(f"{table.where}.shape", f"a {dtype} has none")
    if pad is not None and not pads:
        raise PackageError(f"{table.where}.pad", "outputs are cut back, not padded")
    if pad is not None and not any(isinstance(dim, str) for dim in shape):
        raise PackageError(f"{table.where}.pad", "no dimension varies, so nothing is padded")
    if pad is not None and np.dtype(dtype).kind in "biu" and np.array(pad).astype(dtype) != pad:
        raise PackageError(f"{table.where}.pad", f"{pad:g} does not fit into {dtype}")
    if finite and (dtype in PLAIN_DTYPES or np.dtype(dtype).kind not in "fc"):
        raise PackageError(f"{table.where}.finite", f"only floats can be otherwise, not {dtype}")
    return Field(name, dtype, shape, pad, finite)


def _field_to_dict(field: Field) -> dict[str, Any]:
    form: dict[str, Any] = {"name": field.name, "dtype": field.dtype}
    if field.is_tensor:
        form["shape"] = list(field.shape)
    if field.pad is not None:
        form["pad"] = field.pad
    if field.finite:
        form["finite"] = True
    return form


def _batching(table: Table) -> Batching:
    default = Batching()
    batching = Batching(
        max_records=table.whole("max_records", default.max_records),
        max_tokens=table.whole("max_tokens", 1) if table.has("max_tokens") else None,
        time_limit=table.number("time_limit", default.time_limit, above=0),
    )
    table.end()
    return batching


def _retrying(table: Table) -> Retrying:
    default = Retrying()
    retrying = Retrying(
        attempts=table.whole("attempts", 1) if table.has("attempts") else None,
        delay=table.number("delay", default.delay, least=0),
        max_delay=table.number("max_delay", default.max_delay, least=0),
        on=table.texts("on", _CLASS) if table.has("on") else default.on,
    )
    table.end()
    return retrying


def _tolerance(table: Table) -> Tolerance:
    default = Tolerance()
    tolerance = Tolerance(
        rtol=table.number("rtol", default.rtol, least=0),
        atol=table.number("atol", default.atol, least=0),
    )
    table.end()
    return tolerance


def _present(form: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in form.items() if value is not None}
