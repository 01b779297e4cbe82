"""``headrace models``: make, check and register model packages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from headrace import runtimes
from headrace.cli.printing import as_json, print_json, print_table
from headrace.errors import PackageError
from headrace.registry import golden
from headrace.registry.init_package import init_package, slug
from headrace.registry.manifest import Batching, Manifest, manifest_to_dict
from headrace.registry.package import Package, read_package
from headrace.signature import Field

if TYPE_CHECKING:
    from headrace.db.engine import Database

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
_TRUST = click.option(
    "--trust", is_flag=True, help="Allow this package's code on this machine, for this command."
)


@click.group()
def models() -> None:
    """Make, check and register model packages."""


def _pairs(
    parse: Callable[[str], Any],
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Any]]:
    """A callback for repeated ``NAME=VALUE`` options."""

    def callback(
        ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, Any]:
        pairs = {}
        for value in values:
            name, separator, text = value.partition("=")
            try:
                if not separator:
                    raise ValueError
                pairs[name] = parse(text)
            except ValueError:
                raise click.BadParameter(f"{value!r}; expected NAME={param.metavar}") from None
        return pairs

    return callback


def _dimensions(text: str) -> tuple[int | str, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(int(part) if part.isdigit() else part for part in parts)


@models.command()
@click.argument("source", type=_FILE)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--example", required=True, type=_FILE, help=".npz or .json of columns by input name."
)
@click.option("--name", help="Of the model; by default that of the file, or the folder.")
@click.option("--handler", type=_FILE, help="Python file, see docs/packages.md.")
@click.option("--file", "files", type=_FILE, multiple=True, help="A further file for the handler.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="DIMS",
    callback=_pairs(_dimensions),
    help="Shape of one record of an input: ids=tokens or image=3,height,width. Repeatable.",
)
@click.option(
    "--pad",
    multiple=True,
    metavar="NUMBER",
    callback=_pairs(float),
    help="Value that fills an input's varying dimensions: ids=0. Repeatable.",
)
@click.option("--output", "outputs", multiple=True, help="Name of an output, in order. Repeatable.")
@click.option("--pool", default="default", show_default=True, help="Workers that serve it.")
@click.option("--description", default="", help="One line for a listing.")
@click.option("--max-records", default=64, show_default=True, type=click.IntRange(1))
@click.option("--max-tokens", type=click.IntRange(1), help="Padded tokens in a batch, at most.")
@_DEVICE
@_TRUST
def init(
    source: Path,
    folder: Path | None,
    example: Path,
    name: str | None,
    handler: Path | None,
    outputs: tuple[str, ...],
    max_records: int,
    max_tokens: int | None,
    trust: bool,
    **options: Any,
) -> None:
    """Make a package from SOURCE, which is a weights file or a handler.py, and an example.

    FOLDER is the new package; by default it is named like the model.
    """
    folder = folder or Path(name or slug(source.stem))
    alone = source.suffix == ".py" and handler is None
    package = init_package(
        None if alone else source,
        _read_example(example),
        folder,
        name=name,
        handler=source if alone else handler,
        outputs=outputs or None,
        batching=Batching(max_records=max_records, max_tokens=max_tokens),
        allow_code=True if trust else _allowed_here(),
        **options,
    )
    _print_package(package)
    _print_code(package)


@models.command()
@click.argument("folder", type=_FOLDER)
@_DEVICE
@_TRUST
def check(folder: Path, device: str, trust: bool) -> None:
    """Read the package FOLDER and run its golden examples."""
    package = _check(folder, device, trust)
    _print_package(package)
    _print_code(package)


@models.command()
@click.argument("folder", type=_FOLDER)
@_DEVICE
@_TRUST
def push(folder: Path, device: str, trust: bool) -> None:
    """Check the package FOLDER and register it as its model's next version."""
    from headrace.registry import versions
    from headrace.settings import load_settings
    from headrace.storage import open_store

    package = _check(folder, device, trust)
    version = versions.push(_database(), open_store(load_settings()), package)
    click.echo(f"{version.key} is registered ({len(package.files)} files)")
    _print_code(package)


@models.command("list")
@click.argument("name", required=False)
@as_json
def list_(name: str | None, as_json: bool) -> None:
    """List the registered versions (of one model)."""
    from headrace.registry import versions

    found = versions.list_models(_database(), name)
    if as_json:
        print_json([dataclasses.asdict(row) | {"model": str(row.key)} for row in found])
        return
    print_table(
        ("model", "stable", "format", "pool", "pushed", "digest", "description"),
        [
            (
                str(row.key),
                "✓" if row.stable else "",
                row.format,
                row.pool,
                f"{row.created_at:%Y-%m-%d}",
                row.digest[:12],
                row.description,
            )
            for row in found
        ],
        whole=6,
    )


@models.command()
@click.argument("ref")
@as_json
def show(ref: str, as_json: bool) -> None:
    """Show one registered version, such as digits or digits@3."""
    from headrace.registry import versions

    version = versions.find(_database(), ref)
    if as_json:
        print_json(
            {
                "model": str(version.key),
                "digest": version.digest,
                "manifest": manifest_to_dict(version.manifest),
                "files": version.files,
                "code": version.code,
            }
        )
        return
    _print_model(str(version.key), version.manifest, version.files, version.code)


def _check(folder: Path, device: str, trust: bool) -> Package:
    package = read_package(folder)
    allowed = frozenset(package.code.values()) if trust else _allowed_here()
    model = runtimes.load(package, device, allowed)
    try:
        count = golden.check(package, model)
    finally:
        model.close()
    click.echo(f"{count} golden examples reproduced on {device}")
    return package


def _allowed_here() -> frozenset[str]:
    from headrace.settings import load_settings

    return load_settings().allow_code


def _database() -> Database:
    from headrace.db.engine import Database
    from headrace.settings import load_settings

    return Database(load_settings().database_url)


def _read_example(path: Path) -> Mapping[str, Any]:
    """Columns by input name from a .npz, or a .json object of lists."""
    try:
        if path.suffix == ".json":
            columns = json.loads(path.read_text("utf-8"))
            if not isinstance(columns, dict):
                raise PackageError(path.name, "expected an object of lists by input name")
            return columns
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise PackageError(path.name, "holds one array; write it with numpy.savez")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise PackageError(path.name, f"not a .npz or .json example ({error})") from None


def _print_package(package: Package) -> None:
    _print_model(package.manifest.name, package.manifest, package.files, package.code)


def _print_model(
    title: str, manifest: Manifest, files: Mapping[str, str], code: Mapping[str, str]
) -> None:
    console = _console()
    fields = Table("", "name", "dtype", "shape", "pad", title=title, title_justify="left")
    for kind, part in (("in", manifest.signature.inputs), ("out", manifest.signature.outputs)):
        for field in part:
            fields.add_row(kind, field.name, field.dtype, _shape(field), _pad(field))
    console.print(fields)
    listing = Table("file", "sha256", "")
    for name, digest in files.items():
        listing.add_row(name, digest[:16], "code" if name in code else "")
    console.print(listing)
    console.print(
        f"{manifest.format} for pool {manifest.pool}, "
        f"up to {manifest.batching.max_records} records a batch"
    )


def _shape(field: Field) -> str:
    return f"[{', '.join(map(str, field.shape))}]" if field.is_tensor else ""


def _pad(field: Field) -> str:
    return "" if field.pad is None else f"{field.pad:g}"


def _print_code(package: Package) -> None:
    """What an operator must allow, in the form that the setting takes."""
    if package.code:
        click.echo("This package runs code. Where a worker may run it, set")
        click.echo(f"HEADRACE_ALLOW_CODE='{json.dumps(sorted(set(package.code.values())))}'")


def _console() -> Console:
    # Shapes look like markup: [tokens, 4].
    return Console(highlight=False, markup=False)
