"""Model versions: pushed once, never changed, found by name.

The rows live in the database, the files in the object store under the package's digest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from headrace.db import models
from headrace.db.engine import Database
from headrace.errors import ModelNotFound, ObjectCorrupt, ObjectExists, PackageError
from headrace.job import ModelKey
from headrace.registry.manifest import ModelVersion, manifest_from_dict, manifest_to_dict
from headrace.registry.package import (
    Package,
    check_names,
    package_digest,
    read_package,
    verify,
)
from headrace.storage import ObjectStore
from headrace.storage.digests import sha256_file

_log = logging.getLogger(__name__)
_REF = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(@(?P<version>stable|[1-9][0-9]{0,8}))?")
_STABLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One version, for a listing."""

    key: ModelKey
    format: str
    pool: str
    stable: bool
    digest: str
    created_at: datetime
    description: str


def parse_ref(ref: str) -> tuple[str, int | None]:
    """``digits@3`` → (digits, 3); ``digits`` and ``digits@stable`` → (digits, None)."""
    match = _REF.fullmatch(ref)
    if match is None:
        raise ModelNotFound(ref)
    version = match["version"]
    return match["name"], None if version in (None, "stable") else int(version)


def push(database: Database, store: ObjectStore, package: Package) -> ModelVersion:
    """Upload the package and make it the name's stable version.

    Pushing the same files again finds the version they have. The caller has checked the
    package and run its golden examples. Raises ObjectCorrupt or PackageError where a file has
    changed since.
    """
    verify(package.root, package.files)
    version = ModelVersion(
        0, package.digest, package.manifest, dict(package.files), dict(package.code)
    )
    for name in package.files:
        # A taken key holds these very bytes: it is made of their digest.
        try:
            store.put_file(f"{version.object_prefix}/{name}", package.root / name)
        except ObjectExists:
            continue
    with database.write() as connection:
        number = models.add(
            connection,
            name=package.manifest.name,
            digest=package.digest,
            pool=package.manifest.pool,
            max_records=package.manifest.batching.max_records,
            manifest=json.dumps(manifest_to_dict(package.manifest)),
            files=json.dumps(dict(package.files)),
            code=json.dumps(dict(package.code)),
        )
    return replace(version, version=number)


def find(database: Database, ref: str) -> ModelVersion:
    """The version `ref` names. Raises ModelNotFound."""
    name, version = parse_ref(ref)
    row = database.ask(lambda connection: models.find(connection, name, version))
    if row is None:
        raise ModelNotFound(ref)
    return _version(row)


def list_models(database: Database, name: str | None = None) -> list[ModelSummary]:
    """Every version (of one name), by name and number."""
    rows = database.ask(lambda connection: models.versions(connection, name))
    return [_summary(row) for row in rows]


def stable_of_pool(database: Database, pool: str) -> list[ModelVersion]:
    """The stable versions that a pool serves, newest first."""
    rows = database.ask(lambda connection: models.stable_of_pool(connection, pool))
    return list(map(_version, rows))


def materialize(store: ObjectStore, version: ModelVersion, cache: Path) -> Package:
    """The version's files as a local package, downloaded once and held to their digests.

    What the registry's row says is checked before any of it names a path. A folder of the cache
    that is not what was downloaded is fetched again, once. Raises ObjectCorrupt or PackageError
    where a file is not what was pushed.
    """
    _check_files(version)
    root = cache / version.digest
    if root.is_dir() or root.is_symlink():
        try:
            return _open(root, version)
        except (ObjectCorrupt, PackageError) as error:
            _log.warning("%s in %s: %s; it is fetched again", version.key, cache, error)
            _discard(root)
    _fetch(store, version, root)
    return _open(root, version)


def _check_files(version: ModelVersion) -> None:
    """The row comes from a database that others may write to. Raises PackageError."""
    check_names(version.files)
    if package_digest(version.files) != version.digest:
        raise PackageError(str(version.key), "its files are not those of its digest")


def _open(root: Path, version: ModelVersion) -> Package:
    if root.is_symlink():
        raise PackageError(root.name, "is a link; the cache holds its own files")
    verify(root, version.files)
    return read_package(root)


def _fetch(store: ObjectStore, version: ModelVersion, root: Path) -> None:
    """Download into `root`, which appears whole or not at all."""
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root.parent))
    try:
        for name, digest in version.files.items():
            key = f"{version.object_prefix}/{name}"
            store.get_file(key, partial / name)
            if sha256_file(partial / name) != digest:
                raise ObjectCorrupt(key, "its sha256 is not the one that was pushed")
        try:
            partial.rename(root)
        except OSError:
            if not root.is_dir():  # no other worker was faster: a real error
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _discard(root: Path) -> None:
    """Remove a folder of the cache; no other worker sees a part of it."""
    if root.is_symlink():
        root.unlink(missing_ok=True)
        return
    with (
        tempfile.TemporaryDirectory(prefix=".corrupt-", dir=root.parent) as aside,
        contextlib.suppress(FileNotFoundError),  # another worker was faster
    ):
        root.rename(Path(aside) / root.name)


class Catalog:
    """Finds versions for a busy process: what cannot change is asked for once.

    Where ``stable`` points may change, and is asked for again after a second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._versions: dict[ModelKey, ModelVersion] = {}
        self._stable: dict[str, tuple[float, ModelKey]] = {}

    def find(self, ref: str) -> ModelVersion:
        """The version `ref` names. Raises ModelNotFound."""
        name, number = parse_ref(ref)
        if number is not None:
            return self.get(ModelKey(name, number))
        asked_at, key = self._stable.get(name, (float("-inf"), None))
        now = time.monotonic()
        if key is not None and now - asked_at < _STABLE_SECONDS:
            return self.get(key)
        version = find(self._database, ref)
        self._versions[version.key] = version
        self._stable[name] = now, version.key
        return version

    def get(self, key: ModelKey) -> ModelVersion:
        """Exactly that version. Raises ModelNotFound."""
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = find(self._database, str(key))
        return version


def _version(row: models.VersionRow) -> ModelVersion:
    return ModelVersion(
        row.version,
        row.digest,
        manifest_from_dict(json.loads(row.manifest)),
        json.loads(row.files),
        json.loads(row.code),
    )


def _summary(row: models.VersionRow) -> ModelSummary:
    manifest = manifest_from_dict(json.loads(row.manifest))
    return ModelSummary(
        ModelKey(row.name, row.version),
        manifest.format,
        row.pool,
        row.stable,
        row.digest,
        datetime.fromtimestamp(row.created_at, UTC),
        manifest.description,
    )
