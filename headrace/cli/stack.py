"""`headrace up`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from headrace.cli.exits import Exit
from headrace.errors import HeadraceError
from headrace.stack import Stack


def _device_names(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"cpu|cuda:\d+", name):
            raise click.BadParameter(f"{name!r}; expected cpu or cuda:N, such as cuda:0")
    return names


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".headrace"),
    show_default=True,
    help="Where jobs, results and logs lie; they stay there.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="How many workers."
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=["cpu"],
    show_default=True,
    callback=_device_names,
    help="cpu or cuda:N, for each worker; repeat it for several, each with a process of its own.",
)
@click.option("--pool", default="default", show_default=True, help="The pool they serve.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="Start Flower too.")
def up(directory: Path, workers: int, devices: tuple[str, ...], pool: str, flower: bool) -> None:
    """Start Redis, workers and Flower on this host, and keep them until Ctrl-C.

    Other commands started in the same folder find them by themselves.
    """
    console = Console(stderr=True)
    stack = Stack(directory, flower=flower, workers=workers, devices=devices, pool=pool)
    started = False
    try:
        with console.status("Starting…") as status, stack:
            status.stop()
            started = True
            console.print(f"Headrace is up, with {_count(workers, devices)} in pool {pool}.")
            console.print(f"  jobs and results  {stack.directory}", soft_wrap=True)
            console.print(f"  logs              {stack.directory / 'logs'}", soft_wrap=True)
            if stack.flower_url is not None:
                console.print(f"  Flower            {stack.flower_url}", soft_wrap=True)
            console.print("Ctrl-C ends it.")
            stack.wait()
    except KeyboardInterrupt:
        console.print("Stopped." if started else "Stopped while starting.")
        if not started:
            raise SystemExit(Exit.INTERRUPTED) from None
    except HeadraceError as error:
        raise click.ClickException(str(error)) from error


def _count(workers: int, devices: Sequence[str]) -> str:
    count = "1 worker" if workers == 1 else f"{workers} workers"
    return f"{count} on {', '.join(devices)}" if workers else count
