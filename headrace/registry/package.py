"""A model package on disk: a folder with model.toml, weights, golden.jsonl and maybe a handler.

Reading one checks all that can be checked without running it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import NotInstalled, ObjectCorrupt, PackageError
from headrace.registry.manifest import FILE_NAME, Manifest, manifest_from_dict, manifest_to_dict
from headrace.runtimes.audit import find_code
from headrace.signature import Signature
from headrace.storage.digests import sha256, sha256_file

MANIFEST = "model.toml"
GOLDEN = "golden.jsonl"
_MAX_MANIFEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose form was checked; satisfies `headrace.runtimes.Loadable`.

    root: its folder. files: sha256 (hex) by file name. digest: sha256 (hex) over `files`.
    code: the part of `files` that runs code when the model is loaded.
    """

    root: Path
    manifest: Manifest
    files: Mapping[str, str]
    digest: str
    code: Mapping[str, str]

    @property
    def format(self) -> str:
        """One of `manifest.FORMATS`."""
        return self.manifest.format

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.manifest.signature

    @property
    def weights(self) -> str:
        """File name of the weights, "" where there are none."""
        return self.manifest.weights

    @property
    def handler(self) -> str | None:
        """File name of the handler."""
        return self.manifest.handler


def read_package(path: Path | str) -> Package:
    """The package in the folder `path`. Runs none of its code.

    Raises PackageError naming the file, and the field in it; NotInstalled where judging the
    weights needs a framework that is missing.
    """
    root = Path(path)
    if not root.is_dir():
        raise PackageError(str(root), "not a folder")
    manifest = read_manifest(root)
    names = [MANIFEST, GOLDEN, manifest.weights, manifest.handler or "", *manifest.files]
    files: dict[str, str] = {}
    for name in sorted(filter(None, names)):
        files[name] = _digest(root, name)
    _check_strays(root, files)
    code = find_code(root, manifest.format, manifest.weights, manifest.handler, files)
    return Package(root, manifest, files, package_digest(files), code)


def read_manifest(root: Path) -> Manifest:
    """What `model.toml` in `root` says. Raises PackageError."""
    path = _inside(root, MANIFEST)
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise PackageError(MANIFEST, "larger than 1 MiB")
        form = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PackageError(MANIFEST, f"cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(MANIFEST, f"not TOML ({error})") from None
    return manifest_from_dict(form, MANIFEST)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write `model.toml`. Raises NotInstalled without tomli-w."""
    try:
        import tomli_w
    except ImportError:
        raise NotInstalled("tomli-w", "server") from None
    (root / MANIFEST).write_text(tomli_w.dumps(manifest_to_dict(manifest)), "utf-8")


def package_digest(files: Mapping[str, str]) -> str:
    """sha256 (hex) over names and digests, whatever their order."""
    return sha256("".join(f"{name}:{files[name]}\n" for name in sorted(files)).encode())


def check_names(files: Iterable[str]) -> None:
    """Raises PackageError for a name that could lead out of a package's folder."""
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise PackageError(repr(name), "is no name of a package's file")


def verify(root: Path, files: Mapping[str, str]) -> None:
    """Hold the files in `root` to their digests, for instance in a worker's cache.

    Raises PackageError where one is missing, a link, or outside; ObjectCorrupt where one differs.
    """
    check_names(files)
    for name, expected in files.items():
        if _digest(root, name) != expected:
            raise ObjectCorrupt(f"{root.name}/{name}", "its sha256 is not the recorded one")


def _digest(root: Path, name: str) -> str:
    try:
        return sha256_file(_inside(root, name))
    except OSError as error:
        raise PackageError(name, f"cannot be read ({error.strerror})") from None


def _inside(root: Path, name: str) -> Path:
    """The file, which must be a real one: a link could lead out of the folder."""
    path = root / name
    if path.is_symlink():
        raise PackageError(name, "is a link; a package holds its own files")
    if not path.is_file():
        raise PackageError(name, "missing")
    if path.resolve().parent != root.resolve():
        raise PackageError(name, "lies outside the package")
    return path


def _check_strays(root: Path, files: Mapping[str, str]) -> None:
    """A file that model.toml does not name would be missing on the worker, and noticed late."""
    for path in sorted(root.iterdir()):
        name = path.name
        if name in files or name.startswith(".") or name == "__pycache__":
            continue
        if name.upper().startswith(("README", "LICENSE")):
            continue
        raise PackageError(name, f"not named in {MANIFEST}; add it to `files` or remove it")
