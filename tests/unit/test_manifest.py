"""model.toml: what is written is read back, and everything malformed is named."""

from __future__ import annotations

import copy
import json
import tomllib

import pytest
import tomli_w

from headrace.errors import PackageError
from headrace.registry.manifest import (
    Batching,
    Manifest,
    Retrying,
    Tolerance,
    manifest_from_dict,
    manifest_to_dict,
)
from headrace.signature import Field, Signature
from tests.conformance.formats.models import SIGNATURE

FULL = Manifest(
    name="pool-1.5_b",
    format="safetensors",
    signature=SIGNATURE,
    weights="w.safetensors",
    handler="handler.py",
    batching=Batching(32, 4096, 5.0),
    retry=Retrying(7, 0.0, 60.0, ("requests.HTTPError",)),
    tolerance=Tolerance(0.01, 0.0),
    pool="gpu",
    requirements=("torch>=2.6",),
    description="Weighs tokens",
    files=("vocab.txt",),
)
SMALL = Manifest(
    "echo",
    "python",
    Signature(
        (Field("text", "string"), Field("x", "float16", (2,), finite=True)), (Field("n", "int64"),)
    ),
    handler="h.py",
)


@pytest.mark.parametrize("manifest", [FULL, SMALL], ids=["full", "small"])
def test_comes_back_from_toml_and_json(manifest) -> None:
    form = manifest_to_dict(manifest)
    assert manifest_from_dict(tomllib.loads(tomli_w.dumps(form))) == manifest
    assert manifest_from_dict(json.loads(json.dumps(form))) == manifest


def test_defaults() -> None:
    manifest = manifest_from_dict(
        {
            "name": "m",
            "format": "torch-export",
            "weights": "m.pt2",
            "inputs": [{"name": "x", "dtype": "float32"}],
            "outputs": [{"name": "y", "dtype": "float32"}],
        }
    )
    assert manifest.batching == Batching()
    assert manifest.tolerance == Tolerance()
    assert manifest.pool == "default"
    assert manifest.signature.inputs[0].shape == ()


MISSING = object()


def spoil(path: str, value: object) -> dict:
    form = copy.deepcopy(manifest_to_dict(FULL))
    *parents, last = path.split(".")
    place = form
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is MISSING:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return form


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("name", MISSING, "name: missing"),
        ("name", 3, "name: expected a string, got int"),
        ("name", "Digits", "name: 'Digits' does not match"),
        ("name", "-x", "name: '-x' does not match"),
        ("name", "a/b", "name: 'a/b' does not match"),
        ("name", "", "name: '' does not match"),
        ("format", "pickle", "format: 'pickle' is none of torch-export"),
        ("format", ["python"], "format: "),
        ("weights", MISSING, "weights: missing; safetensors needs a file"),
        ("weights", "../../etc/passwd", "weights: '../../etc/passwd' does not match"),
        ("weights", "/etc/passwd", "weights: "),
        ("weights", "model.toml", "files: one file in two roles"),
        ("handler", MISSING, "handler: missing; safetensors needs a .py file"),
        ("handler", "w.safetensors", "files: one file in two roles"),
        ("format", "torch-export", "handler: torch-export models have none"),
        ("pool", "GPU", "pool: 'GPU' does not match"),
        ("files", "vocab.txt", "files: expected a list of strings"),
        ("files", ["a/b"], "files: 'a/b' does not match"),
        ("requirements", [1], "requirements: expected a list of strings"),
        ("inputs", [], "inputs: expected at least one table"),
        ("inputs", MISSING, "inputs: missing"),
        ("inputs.0", "x", r"inputs[0]: expected a table, got str"),
        ("inputs.0.dtype", "float31", "inputs[0].dtype: 'float31' is none of"),
        ("inputs.0.dtype", "string", "inputs[0].shape: a string has none"),
        ("inputs.1.name", "x", "inputs: two fields share a name"),
        ("inputs.0.shape", [-1, 4], "inputs[0].shape: -1 is neither"),
        ("inputs.0.shape", [True, 4], "inputs[0].shape: True is neither"),
        ("inputs.0.shape", ["a b"], "inputs[0].shape: 'a b' is neither"),
        ("inputs.0.shape", 4, "inputs[0].shape: expected a list of dimensions"),
        ("inputs.0.shape", [5, 4], "inputs[0].pad: no dimension varies"),
        ("inputs.0.pad", float("nan"), "inputs[0].pad: expected a finite number"),
        (
            "inputs.0.padding",
            0,
            "inputs[0].padding: unknown key; expected dtype, finite, name",
        ),
        ("inputs.0.finite", 1, "inputs[0].finite: expected true or false, got 1"),
        ("outputs.0.pad", 0, "outputs[0].pad: outputs are cut back, not padded"),
        ("outputs.0.dtype", MISSING, "outputs[0].dtype: missing"),
        ("batching", 3, "batching: expected a table, got int"),
        ("batching.max_records", 0, "batching.max_records: expected a whole number from 1"),
        ("batching.max_records", True, "batching.max_records: expected a whole number"),
        ("batching.max_tokens", 1.5, "batching.max_tokens: expected a whole number"),
        ("batching.time_limit", 0, "batching.time_limit: expected a finite number above 0"),
        ("batching.size", 3, "batching.size: unknown key"),
        ("retry.attempts", 0, "retry.attempts: expected a whole number from 1"),
        ("retry.delay", -1, "retry.delay: expected a finite number from 0"),
        ("retry.on", ["no class"], "retry.on: 'no class' does not match"),
        ("retry.times", 3, "retry.times: unknown key"),
        ("tolerance.rtol", -1, "tolerance.rtol: expected a finite number from 0"),
        ("tolerance.atol", "x", "tolerance.atol: expected a number, got str"),
        ("colour", "red", "colour: unknown key"),
    ],
)
def test_names_the_field(path, value, complaint) -> None:
    with pytest.raises(PackageError) as caught:
        manifest_from_dict(spoil(path, value))
    assert str(caught.value).startswith(f"model.toml: {complaint}")


def test_a_pad_must_fit_its_dtype() -> None:
    form = spoil("inputs.0.dtype", "int64")
    form["inputs"][0]["pad"] = 0.5
    with pytest.raises(PackageError, match=r"0\.5 does not fit into int64"):
        manifest_from_dict(form)


def test_torch_models_take_tensors_only() -> None:
    form = spoil("inputs.1", {"name": "text", "dtype": "string"})
    with pytest.raises(PackageError, match=r"inputs\[1\].dtype: safetensors models take"):
        manifest_from_dict(form)


@pytest.mark.parametrize("dtype", ["int64", "bool", "bytes", "string", "json"])
def test_only_floats_can_be_anything_but_finite(dtype) -> None:
    form = manifest_to_dict(SMALL)
    form["inputs"][1] = {"name": "x", "dtype": dtype, "finite": True}
    with pytest.raises(PackageError, match=rf"inputs\[1\].finite: only floats .* not {dtype}"):
        manifest_from_dict(form)
