"""The registry's rows and the worker's cache: neither is taken at its word."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.db.engine import Database
from headrace.errors import ObjectCorrupt, ObjectMissing, PackageError
from headrace.registry import versions
from headrace.registry.manifest import ModelVersion
from headrace.registry.package import Package, package_digest, read_package
from headrace.storage import ObjectStore, open_store

CLIMBING = ["../evil", "/tmp/evil", "a/../../evil", "a/b", "..", ".", ".hidden", "", "a\\b", "a\0b"]


@pytest.fixture
def database(database_url) -> Database:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return open_store(f"{tmp_path}/objects")


@pytest.fixture
def package(pool_package) -> Package:
    return read_package(pool_package)


@pytest.fixture
def version(database, store, package) -> ModelVersion:
    versions.push(database, store, package)
    return versions.find(database, "pool@1")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_was_pushed_is_fetched_once(store, version, package, cache) -> None:
    assert versions.materialize(store, version, cache).files == package.files
    store.delete([info.key for info in store.list()])
    assert versions.materialize(store, version, cache).digest == package.digest
    assert everything(cache / version.digest) == sorted(package.files)


@pytest.mark.parametrize("name", CLIMBING)
def test_a_row_with_a_file_that_climbs_out_is_refused(store, version, cache, name) -> None:
    files = {**version.files, name: next(iter(version.files.values()))}
    hostile = replace(version, files=files, digest=package_digest(files))
    before = everything(cache.parent)
    with pytest.raises(PackageError, match="is no name of a package's file"):
        versions.materialize(store, hostile, cache)
    assert everything(cache.parent) == before


@pytest.mark.parametrize("name", CLIMBING)
def test_nor_is_it_pushed(database, store, package, name) -> None:
    (package.root.parent / "evil").write_text("secret")
    with pytest.raises(PackageError, match="is no name of a package's file"):
        versions.push(database, store, replace(package, files={name: "0" * 64}))
    assert list(store.list()) == []
    assert versions.list_models(database) == []


@pytest.mark.parametrize("digest", ["../../elsewhere", "/tmp", "", "0" * 64])
def test_a_row_with_a_digest_of_other_files_is_refused(store, version, cache, digest) -> None:
    with pytest.raises(PackageError, match="pool@1: its files are not those of its digest"):
        versions.materialize(store, replace(version, digest=digest), cache)
    assert not cache.exists()


def test_a_file_that_changed_after_the_check_is_not_pushed(database, store, package) -> None:
    (package.root / "golden.jsonl").write_text("{}")
    with pytest.raises(ObjectCorrupt, match=r"golden\.jsonl"):
        versions.push(database, store, package)
    outside = package.root.parent / "outside"
    shutil.copyfile(package.root / "pool.pt2", outside)
    (package.root / "pool.pt2").unlink()
    (package.root / "pool.pt2").symlink_to(outside)
    with pytest.raises(PackageError, match=r"pool\.pt2: is a link"):
        versions.push(database, store, replace(package, files={"pool.pt2": sha(package)}))
    assert list(store.list()) == []


def sha(package: Package) -> str:
    return package.files["pool.pt2"]


def change(root: Path) -> None:
    (root / "pool.pt2").write_bytes(b"tampered")


def remove(root: Path) -> None:
    (root / "pool.pt2").unlink()


def link(root: Path) -> None:
    shutil.copyfile(root / "pool.pt2", root.parent / "pool.pt2")
    (root / "pool.pt2").unlink()
    (root / "pool.pt2").symlink_to(root.parent / "pool.pt2")


def link_the_folder(root: Path) -> None:
    root.rename(root.parent / "elsewhere")
    root.symlink_to(root.parent / "elsewhere")


def add(root: Path) -> None:
    (root / "pool.py").touch()


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (change, "pool.pt2': its sha256 is not the recorded one"),
        (remove, "pool.pt2: missing"),
        (link, "pool.pt2: is a link"),
        (link_the_folder, ": is a link"),
        (add, "pool.py: not named in model.toml"),
    ],
)
def test_a_tampered_cache_is_told_and_fetched_again(
    store, version, package, cache, caplog, tamper, told
) -> None:
    root = versions.materialize(store, version, cache).root
    tamper(root)
    with caplog.at_level(logging.WARNING):
        assert versions.materialize(store, version, cache).files == package.files
    assert told in caplog.text
    assert "pool@1" in caplog.text
    assert everything(root) == sorted(package.files)
    assert not root.is_symlink()
    assert not list(cache.glob(".*"))


def test_once_and_no_more(store, version, cache) -> None:
    change(versions.materialize(store, version, cache).root)
    key = f"{version.object_prefix}/pool.pt2"
    store.delete([key])
    with pytest.raises(ObjectMissing, match=key):
        versions.materialize(store, version, cache)
    store.put(key, b"tampered in the store, too")
    with pytest.raises(ObjectCorrupt, match=rf"{key}.*not the one that was pushed"):
        versions.materialize(store, version, cache)
    assert everything(cache) == [], "nothing of it stays"
