"""A malicious package in every format: its code waits for its allowance, its paths stay inside.

What may be planted in a torch.export archive is the matter of `test_code`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from headrace import runtimes
from headrace.cli import main
from headrace.errors import CodeNotAllowed, PackageError
from headrace.inprocess import load
from headrace.registry.init_package import init_package
from headrace.registry.manifest import Manifest
from headrace.registry.package import Package, read_package, write_manifest
from headrace.signature import Field, Signature
from tests.conformance.formats.test_code import Trap, pickled, plant_sample_inputs, rewrite

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")

SIGNATURE = Signature((Field("x", "float32", (2,)),), (Field("y", "float32", (2,)),))
GOLDEN = '{"inputs": {"x": [1, 2]}, "outputs": {"y": [1, 2]}}\n'
TRAP = """
import os
os.mkdir({mark!r})

def build(weights, device):
    return lambda x: x

class Handler:
    def forward(self, records):
        return [{{"y": record["x"]}} for record in records]
"""


def write_package(root: Path, format: str, weights: bytes, handler: str | None = None) -> Path:
    suffix = {"torch-export": "pt2", "torchscript": "pt", "python": "bin"}.get(format, format)
    root.mkdir(parents=True)
    (root / f"model.{suffix}").write_bytes(weights)
    (root / "golden.jsonl").write_text(GOLDEN)
    if handler is not None:
        (root / "handler.py").write_text(handler)
    name = None if handler is None else "handler.py"
    write_manifest(root, Manifest("m", format, SIGNATURE, f"model.{suffix}", name))
    return root


def script() -> bytes:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Same()), buffer)
    return buffer.getvalue()


def archive_with_a_trap(root: Path, mark: Path, pool_pt2: Path) -> Path:
    package = write_package(root, "torch-export", pool_pt2.read_bytes())
    plant_sample_inputs(package / "model.pt2", mark)
    return package


def script_with_a_trap(root: Path, mark: Path, pool_pt2: Path) -> Path:
    package = write_package(root, "torchscript", script())
    rewrite(package / "model.pt", lambda members: members | {"data.pkl": pickle.dumps(Trap(mark))})
    return package


def honest_script(root: Path, mark: Path, pool_pt2: Path) -> Path:
    return write_package(root, "torchscript", script())


def pickle_for_a_script(root: Path, mark: Path, pool_pt2: Path) -> Path:
    return write_package(root, "torchscript", pickled(Trap(mark)))


def handler_of_safetensors(root: Path, mark: Path, pool_pt2: Path) -> Path:
    import safetensors.torch

    weights = safetensors.torch.save({"w": torch.ones(1)})
    return write_package(root, "safetensors", weights, TRAP.format(mark=str(mark)))


def python_handler(root: Path, mark: Path, pool_pt2: Path) -> Path:
    return write_package(root, "python", pickle.dumps(Trap(mark)), TRAP.format(mark=str(mark)))


PLANTED = [
    archive_with_a_trap,
    script_with_a_trap,
    honest_script,
    pickle_for_a_script,
    handler_of_safetensors,
    python_handler,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_nothing_runs_without_allowance(plant, pool_pt2, tmp_path, database_url, monkeypatch):
    monkeypatch.delenv("HEADRACE_ALLOW_CODE", raising=False)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", f"file://{tmp_path}/objects")
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "it-ran"
    root = plant(tmp_path / "m", mark, pool_pt2)
    package = read_package(root)
    (first, *_) = package.code.values()
    for allowed in (frozenset(), frozenset({"0" * 64})):
        with pytest.raises(CodeNotAllowed, match=first):
            runtimes.load(package, "cpu", allowed)
        with pytest.raises(CodeNotAllowed, match=first):
            load(root, allow_code=allowed)
    for command in (["check"], ["push"]):
        refused = CliRunner().invoke(main, ["models", *command, str(root)])
        assert refused.exit_code == 1
        assert first in refused.stderr
        assert "HEADRACE_ALLOW_CODE" in refused.stderr
    with pytest.raises(CodeNotAllowed, match=first):
        remake(package, tmp_path / "new")
    assert not mark.exists()
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "objects").exists()


def remake(package: Package, folder: Path) -> None:
    handler = package.root / package.handler if package.handler else None
    init_package(package.root / package.weights, {"x": [[1.0, 2.0]]}, folder, handler=handler)


@pytest.mark.parametrize("plant", [handler_of_safetensors, python_handler])
def test_the_handlers_are_real(plant, pool_pt2, tmp_path) -> None:
    root = plant(tmp_path / "m", tmp_path / "it-ran", pool_pt2)
    load(root, allow_code=True).close()
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("plant", [script_with_a_trap, pickle_for_a_script])
def test_an_allowed_script_is_still_not_unpickled(plant, pool_pt2, tmp_path) -> None:
    """TorchScript has an unpickler of its own, which makes no Python objects."""
    root = plant(tmp_path / "m", tmp_path / "it-ran", pool_pt2)
    with pytest.raises(PackageError, match="not a TorchScript archive"):
        load(root, allow_code=True)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("form", [pickle.dumps, pickled])
def test_a_pickle_for_safetensors_is_not_unpickled(form, tmp_path) -> None:
    """The handler is allowed; the weights must be data all the same."""
    mark = tmp_path / "it-ran"
    source = "def build(weights, device): return lambda x: x\n"
    root = write_package(tmp_path / "m", "safetensors", form(Trap(mark)), source)
    allowed = {read_package(root).code["handler.py"]}
    with pytest.raises(PackageError, match=r"model\.safetensors: not a safetensors file"):
        load(root, allow_code=allowed)
    assert not mark.exists()


@pytest.mark.parametrize("member", ["pool/../../../evil", "/tmp/evil", "../evil"])
def test_an_archive_member_that_climbs_out_is_left_where_it_is(
    member, pool_package, tmp_path
) -> None:
    with zipfile.ZipFile(pool_package / "pool.pt2", "a") as archive:
        archive.writestr(member, b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PackageError, match=r"pool\.pt2"):
        load(pool_package, allow_code=())
    assert sorted(tmp_path.rglob("*")) == before


FORMATS = {"torch-export": None, "torchscript": None, "safetensors": TRAP, "python": TRAP}
CLIMBING = ["../evil", "/tmp/evil", "a/b", "..", "a/../../evil"]


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("key", ["weights", "handler", "files"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_path_that_climbs_out_is_refused(format, key, name, tmp_path) -> None:
    root = write_package(tmp_path / "m", format, b"", FORMATS[format])
    (tmp_path / "evil").write_text("secret")
    value = f'["{name}"]' if key == "files" else f'"{name}"'
    text = (root / "model.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    (root / "model.toml").write_text("\n".join([f"{key} = {value}", *lines]))
    with pytest.raises(PackageError, match=rf"model.toml: {key}: '{name}' does not match"):
        read_package(root)


@pytest.mark.parametrize("format", FORMATS)
def test_a_link_is_refused(format, tmp_path) -> None:
    names = sorted(path.name for path in write_package(tmp_path / "m", format, b"").iterdir())
    assert len(names) == 3
    for name in [*names, *(["handler.py"] if FORMATS[format] else [])]:
        root = write_package(tmp_path / name, format, b"", FORMATS[format])
        (root / name).rename(tmp_path / "outside")
        (root / name).symlink_to(tmp_path / "outside")
        with pytest.raises(PackageError, match=rf"{name}: is a link"):
            read_package(root)
