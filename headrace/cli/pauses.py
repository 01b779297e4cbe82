"""``headrace pause | resume | paused``: hold up a model's or a pool's jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from headrace.cli.printing import as_json, print_json, print_table
from headrace.client import Client


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL or --pool; the client refuses both and neither."""
    command = click.option("--pool", help="A pool, instead of a model.")(command)
    return click.argument("model", required=False)(command)


@click.command()
@_what
@click.option("--reason", default="", help="Shown by `headrace status` of a job that waits.")
def pause(model: str | None, pool: str | None, reason: str) -> None:
    """Have no worker begin jobs of MODEL (digits: every version, or digits@3) or of a pool.

    They queue up; what a worker has claimed already still runs.
    """
    with Client() as client:
        click.echo(f"{client.pause(model, pool=pool, reason=reason)} is paused")


@click.command()
@_what
def resume(model: str | None, pool: str | None) -> None:
    """Undo a pause of the same MODEL or pool."""
    with Client() as client:
        held = client.resume(model, pool=pool)
    click.echo("resumed" if held else "it was not paused; see `headrace paused`")


@click.command()
@as_json
def paused(as_json: bool) -> None:
    """List what is paused, by whom and why, oldest first."""
    with Client() as client:
        found = client.pauses()
    if as_json:
        print_json([dataclasses.asdict(pause) for pause in found])
        return
    print_table(
        ("paused", "since (UTC)", "by", "reason"),
        [(each.what, f"{each.since:%Y-%m-%d %H:%M:%S}", each.by, each.reason) for each in found],
    )
