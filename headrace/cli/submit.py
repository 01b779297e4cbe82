"""``headrace submit``: queue a file of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from headrace.cli.printing import as_json, print_json
from headrace.client import Client
from headrace.errors import InvalidInput
from headrace.job import Priority

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.option(
    "--inputs",
    required=True,
    type=_FILE,
    help=".npz of arrays by input name, records first; .npy for a model with one input; "
    ".json: a list of records, or an object of lists by input name.",
)
@click.option(
    "--priority",
    type=click.Choice([priority.queue for priority in Priority]),
    default=Priority.NORMAL.queue,
    show_default=True,
)
@click.option("--deadline", type=float, help="Seconds after which the results are of no use.")
@click.option("--idempotency-key", help="A second submission under it returns the first's jobs.")
@click.option("--tenant", default="", help="On whose behalf; workers take turns between tenants.")
@as_json
def submit(
    model: str,
    inputs: Path,
    priority: str,
    deadline: float | None,
    idempotency_key: str | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Queue every record of a file for MODEL, such as digits or digits@3, all or none.

    Prints the jobs' ids, one a line: `headrace submit … | headrace wait -`.
    """
    with Client(tenant=tenant) as client:
        ids = client.submit_many(
            model,
            _read(inputs),
            priority=priority,
            deadline=deadline,
            idempotency_key=idempotency_key,
        )
    if as_json:
        print_json({"jobs": ids})
        return
    for id in ids:
        click.echo(id)
    click.echo(f"{len(ids)} {'job' if len(ids) == 1 else 'jobs'} queued", err=True)


def _read(path: Path) -> Any:
    """What `Client.submit_many` takes. Raises InvalidInput naming the file."""
    try:
        if path.suffix == ".json":
            records = json.loads(path.read_text("utf-8"))
            if isinstance(records, dict | list) and records:
                return records
            raise ValueError("expected a list of records, or an object of lists")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(path.name, f"no .npz, .npy or .json of records ({error})") from None
