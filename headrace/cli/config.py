"""``headrace config``: what the settings are, and where each comes from."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
from pydantic_core import PydanticUndefined, to_jsonable_python

from headrace.cli.printing import as_json, print_json, print_table
from headrace.settings import PREFIX, Settings, load_settings, masked, origin_of_each, unit

_HEAD = """\
# Settings

<!-- Written by `headrace config docs`; a test holds it to the code. -->

Each is a `HEADRACE_*` environment variable, or a key (the same in lower case, without the
prefix) of a TOML file: the one that `HEADRACE_CONFIG` names, else `./headrace.toml`, else
`./.headrace/headrace.toml`, which `headrace up` writes while it runs. A variable counts more
than the file. `headrace config show` prints what holds here and where it comes from, with
passwords masked.

A setting that is wrong, or a name that is no setting, stops a program at its start with a
message that says which, and what was expected. What Kubernetes and Docker put into the
environment for a service of the same name (`HEADRACE_PORT=tcp://…`, `HEADRACE_SERVICE_HOST`)
is left alone.

Credentials for S3 are not settings: they come from boto3's usual chain (`AWS_*` variables,
`~/.aws`, the role of the host or pod).

| Variable | Default | Unit | Meaning |
|---|---|---|---|
"""


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@as_json
def show(as_json: bool) -> None:
    """Print every setting: its value (passwords masked), where that comes from, its meaning."""
    settings, origins = load_settings(), origin_of_each()
    rows = [
        {
            "name": name,
            "variable": PREFIX + name.upper(),
            "value": to_jsonable_python(masked(value)),
            "origin": origins.get(name, "default"),
            "unit": unit(name),
            "meaning": field.description,
        }
        for (name, value), field in zip(settings, Settings.model_fields.values(), strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("setting", "value", "from", "meaning"),
        [
            (row["name"], _text(row["value"], row["unit"]), row["origin"], row["meaning"])
            for row in rows
        ],
    )


@config.command()
def docs() -> None:
    """Print docs/settings.md."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        assert default is not PydanticUndefined, "every setting has a default"
        cells = (
            f"`{PREFIX}{name.upper()}`",
            _quoted(to_jsonable_python(default)),
            unit(name) or "",
            field.description or "",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    click.echo(_HEAD + "".join(lines), nl=False)


def _text(value: object, unit: str | None) -> str:
    if value is None or value == []:
        return ""
    shown = value if isinstance(value, str) else json.dumps(value)
    return f"{shown} {unit}" if unit else shown


def _quoted(value: object) -> str:
    text: Callable[[object], str] = str if isinstance(value, str) else json.dumps
    return "" if value is None else f"`{text(value)}`"
