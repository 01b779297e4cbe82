"""A package on disk: read, digested, verified, and refused where it is malformed."""

from __future__ import annotations

import pytest

from headrace.errors import GoldenMismatch, ObjectCorrupt, PackageError
from headrace.inprocess import load
from headrace.registry import golden
from headrace.registry.package import package_digest, read_package, verify
from headrace.storage.digests import sha256_file


def test_reads_what_is_there(pool_package) -> None:
    package = read_package(pool_package)
    assert package.manifest.name == "pool"
    assert package.files == {
        name: sha256_file(pool_package / name)
        for name in ("golden.jsonl", "model.toml", "pool.pt2")
    }
    assert package.digest == package_digest(dict(reversed(package.files.items())))
    verify(pool_package, package.files)


def test_the_digest_covers_every_file_and_its_name(pool_package) -> None:
    before = read_package(pool_package)
    (pool_package / "golden.jsonl").write_text((pool_package / "golden.jsonl").read_text() + "\n")
    assert read_package(pool_package).digest != before.digest
    assert package_digest({"a": "1"}) != package_digest({"b": "1"})


def test_verify_names_the_file(pool_package) -> None:
    package = read_package(pool_package)
    weights = pool_package / "pool.pt2"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ObjectCorrupt, match=r"pool\.pt2"):
        verify(pool_package, package.files)
    weights.unlink()
    with pytest.raises(PackageError, match=r"pool\.pt2: missing"):
        verify(pool_package, package.files)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda root: (root / "model.toml").unlink(), "model.toml: missing"),
        (lambda root: (root / "model.toml").write_text("name = "), "model.toml: not TOML"),
        (lambda root: (root / "model.toml").write_bytes(b"\xff"), "model.toml: not TOML"),
        (lambda root: (root / "pool.pt2").unlink(), "pool.pt2: missing"),
        (lambda root: (root / "golden.jsonl").unlink(), "golden.jsonl: missing"),
        (lambda root: (root / "stray.txt").touch(), "stray.txt: not named in model.toml"),
        (
            lambda root: (
                (root / "pool.pt2").rename(root.parent / "w")
                and (root / "pool.pt2").symlink_to(root.parent / "w")
            ),
            "pool.pt2: is a link",
        ),
        (lambda root: (root / "pool.pt2").write_bytes(b""), "pool.pt2: not a torch.export"),
    ],
)
def test_names_the_file(spoil, complaint, pool_package) -> None:
    spoil(pool_package)
    with pytest.raises(PackageError) as caught:
        read_package(pool_package)
    assert str(caught.value).startswith(complaint)


def test_a_readme_and_hidden_files_are_left_alone(pool_package) -> None:
    (pool_package / "README.md").touch()
    (pool_package / ".DS_Store").touch()
    assert set(read_package(pool_package).files) == {"golden.jsonl", "model.toml", "pool.pt2"}


def test_no_folder(tmp_path) -> None:
    with pytest.raises(PackageError, match="nowhere: not a folder"):
        read_package(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "golden.jsonl: holds no example"),
        ("{", "golden.jsonl: line 1: not JSON"),
        ("[]", "golden.jsonl: line 1: expected an object"),
        ('{"inputs": {}, "outputs": {}}', "golden.jsonl: line 1: inputs.x: missing"),
        ('{"inputs": 3, "outputs": {}}', "golden.jsonl: line 1: inputs"),
    ],
)
def test_golden_names_the_line(text, complaint, pool_package) -> None:
    (pool_package / "golden.jsonl").write_text(text)
    with pytest.raises(PackageError) as caught, load(pool_package) as model:
        golden.check(model.package, model._model)
    assert str(caught.value).startswith(complaint)


def test_golden_notices_a_changed_number(pool_package) -> None:
    path = pool_package / "golden.jsonl"
    lines = path.read_text().splitlines()
    with load(pool_package) as model:
        assert golden.check(model.package, model._model) == 3
        examples = golden.read(pool_package, model.signature)
        pairs = [(e.inputs, {n: v.copy() for n, v in e.outputs.items()}) for e in examples]
        pairs[1][1]["each"][0, 2] += 0.5
        golden.write(pool_package, model.signature, pairs)
        assert path.read_text().splitlines()[0] == lines[0]
        with pytest.raises(
            GoldenMismatch, match=r"line 2: outputs.each: 1 of 15 values differ, by up to 0\.5"
        ):
            golden.check(model.package, model._model)
