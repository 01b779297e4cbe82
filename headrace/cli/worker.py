"""``headrace worker``: turns into ``python -m workers``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

import headrace
from headrace.errors import ConfigError


@click.command(
    # Its options, --help too, are those of the program that it turns into.
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Take jobs of a pool, one supervised worker process per device."""
    folder = _folder()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(
        sys.executable,
        [sys.executable, "-m", "workers", *arguments],
        os.environ | {"PYTHONPATH": path},
    )


def _folder() -> Path:
    """The folder that holds ``workers`` and ``tasks``, which the wheel does not ship."""
    for folder in (Path(headrace.__file__).resolve().parents[1], Path.cwd()):
        if (folder / "workers" / "supervisor.py").is_file():
            return folder
    raise ConfigError(
        "workers run from Headrace's checkout or image, in the folder that holds workers/: the "
        "installed package ships none"
    )
