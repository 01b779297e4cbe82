"""golden.jsonl: inputs with the outputs they must give, and the check against a live model.

One line per record: ``{"inputs": {…}, "outputs": {…}}``. Tensors are nested lists (complex
numbers as pairs, a non-finite number as ``"NaN"``, ``"Infinity"``, ``"-Infinity"``), bytes
are base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import GoldenMismatch, InvalidInput, PackageError
from headrace.job import Done, Outcome
from headrace.registry.manifest import Tolerance
from headrace.registry.package import GOLDEN, Package
from headrace.runtimes import Model
from headrace.signature import Array, Field, Record, Signature


@dataclass(frozen=True, slots=True)
class Example:
    """One golden record, validated. line: its line in the file, from 1."""

    line: int
    inputs: Record
    outputs: Record


def read(root: Path, signature: Signature) -> list[Example]:
    """The examples in `root`, at least one. Raises PackageError naming line and field."""
    examples = []
    try:
        lines = (root / GOLDEN).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(GOLDEN, f"cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            examples.append(_parse(line, number, signature))
    if not examples:
        raise PackageError(GOLDEN, "holds no example; `headrace models init` writes some")
    return examples


def write(root: Path, signature: Signature, pairs: Iterable[tuple[Record, Record]]) -> None:
    """Write inputs with their outputs."""
    with (root / GOLDEN).open("w", encoding="utf-8") as file:
        for inputs, outputs in pairs:
            form = {
                "inputs": {f.name: _encode(f, inputs[f.name]) for f in signature.inputs},
                "outputs": {f.name: _encode(f, outputs[f.name]) for f in signature.outputs},
            }
            file.write(json.dumps(form, allow_nan=False, ensure_ascii=False) + "\n")


def check(package: Package, model: Model) -> int:
    """Run the golden examples, together and one by one, and return how many there are.

    Together, because a model that mixes records up gives right answers only alone. Raises
    GoldenMismatch naming line, output and difference; PackageError where golden.jsonl is
    malformed. Whatever the model raises passes through.
    """
    signature, tolerance = package.signature, package.manifest.tolerance
    examples = read(package.root, signature)
    buckets: dict[tuple[Any, ...], list[Example]] = {}
    for example in examples:
        buckets.setdefault(signature.bucket(example.inputs), []).append(example)
    limit = package.manifest.batching.max_records
    for bucket in buckets.values():
        batches = [bucket[i : i + limit] for i in range(0, len(bucket), limit)]
        if len(bucket) > 1:
            batches += [[example] for example in bucket]
        for batch in batches:
            outcomes = model.infer([example.inputs for example in batch])
            if len(outcomes) != len(batch):
                raise GoldenMismatch(GOLDEN, f"{len(outcomes)} outcomes for {len(batch)} records")
            for example, outcome in zip(batch, outcomes, strict=True):
                how = "alone" if len(batch) == 1 else f"in a batch of {len(batch)}"
                _compare(example, outcome, signature, tolerance, how)
    return len(examples)


def _compare(
    example: Example, outcome: Outcome, signature: Signature, tolerance: Tolerance, how: str
) -> None:
    where = f"{GOLDEN}: line {example.line}"
    if not isinstance(outcome, Done):
        raise GoldenMismatch(where, f"run {how}, the model answered {outcome}")
    for field in signature.outputs:
        got, want = outcome.outputs[field.name], example.outputs[field.name]
        if problem := _difference(field, got, want, tolerance):
            raise GoldenMismatch(f"{where}: outputs.{field.name}", f"{problem} (run {how})")


def _difference(field: Field, got: Any, want: Any, tolerance: Tolerance) -> str | None:
    """What is wrong with `got`, or None. Whole numbers and plain values must be equal."""
    if not field.is_tensor:
        return None if got == want else f"expected {want!r}, got {got!r}"
    if got.shape != want.shape:
        return f"expected shape {list(want.shape)}, got {list(got.shape)}"
    if want.dtype.kind in "fc":
        near = np.isclose(got, want, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)
    else:
        near = got == want
    if np.all(near):
        return None
    far = ~near
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        gap = np.abs(got.astype(wide) - want.astype(wide))[far]
        relative = gap / np.abs(want.astype(wide))[far]
    return (
        f"{int(far.sum())} of {far.size} values differ, by up to {gap.max():.3g} "
        f"({relative.max():.3g} relative); allowed are atol {tolerance.atol:g} and "
        f"rtol {tolerance.rtol:g}"
    )


def _parse(line: str, number: int, signature: Signature) -> Example:
    where = f"{GOLDEN}: line {number}"
    try:
        form = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PackageError(where, f"not JSON ({error})") from None
    if not isinstance(form, dict) or set(form) != {"inputs", "outputs"}:
        raise PackageError(where, "expected an object with `inputs` and `outputs`")
    try:
        inputs = signature.check(_decode_all(signature.inputs, form["inputs"]), "inputs")
        outputs = signature.check_output(_decode_all(signature.outputs, form["outputs"]))
    except InvalidInput as error:
        raise PackageError(f"{where}: {error.field}", error.problem) from None
    return Example(number, inputs, outputs)


def _decode_all(fields: Sequence[Field], form: Any) -> dict[str, Any]:
    if not isinstance(form, Mapping):
        raise InvalidInput("inputs or outputs", "expected an object by field name")
    known = {field.name: field for field in fields}
    return {
        name: _decode(known[name], value) if name in known else value
        for name, value in form.items()
    }


def _encode(field: Field, value: Any) -> Any:
    if field.dtype == "bytes":
        return base64.b64encode(value).decode("ascii")
    if not field.is_tensor:
        return value
    array = np.asarray(value)
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _spell(array.astype(np.float64).tolist())
    return array.tolist()


def _spell(value: Any) -> Any:
    """Nested lists with non-finite numbers spelt out, since JSON has none."""
    if isinstance(value, list):
        return [_spell(inner) for inner in value]
    if value != value:
        return "NaN"
    return "Infinity" if value == np.inf else "-Infinity" if value == -np.inf else value


def _unspell(value: Any) -> Any:
    if isinstance(value, list):
        return [_unspell(inner) for inner in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _decode(field: Field, value: Any) -> Any:
    if field.dtype == "bytes":
        try:
            return base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise InvalidInput(field.name, "expected base64") from None
    if not field.is_tensor:
        return value
    dtype = np.dtype(field.dtype)
    if dtype.kind in "fc":
        value = _unspell(value)
    try:
        array: Array = np.asarray(value)
        if dtype.kind == "c":
            # Not real + 1j * imag: that makes a NaN of an infinite part.
            array = np.ascontiguousarray(value, np.float64).view(np.complex128)[..., 0]
    except (TypeError, ValueError, IndexError) as error:
        raise InvalidInput(field.name, f"not a regular array ({error})") from None
    if array.size == 0:
        # Nested lists forget the shape of what is empty.
        lost = tuple(dim if isinstance(dim, int) else 0 for dim in field.shape)
        array = np.empty(lost if 0 in lost else array.shape, dtype)
    return array
