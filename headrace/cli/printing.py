"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_MIN_WIDTH = 120

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(value: Any) -> None:
    """One JSON document: arrays as nested lists, bytes as base64, times as ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], whole: int = 1) -> None:
    """A table. The first `whole` columns are never wrapped: what they hold is for copying."""
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index < whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Values look like markup: [tokens, 4].
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, _MIN_WIDTH)
    console.print(table)


def _plain(value: Any) -> Any:
    match value:
        case np.ndarray() if value.dtype.kind == "c":
            return {"real": value.real.tolist(), "imag": value.imag.tolist()}
        case np.ndarray() | np.generic():
            return value.tolist()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case datetime():
            return value.isoformat()
        case frozenset():
            return sorted(value)
        case Path():
            return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
