"""``headrace run``, ``headrace datasets``: files of records in, files of results out."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from headrace.cli.exits import Exit
from headrace.cli.printing import as_json, print_json, print_table
from headrace.client import Client
from headrace.dataset import Dataset, DatasetId, DatasetState
from headrace.job import Priority


def _fields(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, list[str]]:
    """``FIELD=COLUMN``, again for each further column of the same field."""
    inputs: dict[str, list[str]] = {}
    for each in given:
        field, separator, column = each.partition("=")
        if not separator or not field or not column:
            raise click.BadParameter(f"{each!r}; expected FIELD=COLUMN")
        inputs.setdefault(field, []).append(column)
    return inputs


@click.command()
@click.argument("model")
@click.argument("input")
@click.argument("output")
@click.option(
    "--input",
    "inputs",
    metavar="FIELD=COLUMN",
    multiple=True,
    callback=_fields,
    help="The column that a field of the model is in, where it has another name; * and ? stand "
    "for characters. Several columns of numbers make one tensor. Repeatable.",
)
@click.option("--id", metavar="COLUMN", help="What names a record; else its file and row do.")
@click.option("--carry", metavar="COLUMN", multiple=True, help="Copy into the results. Repeatable.")
@click.option(
    "--fetch",
    metavar="FIELD",
    multiple=True,
    help="The field's column holds paths or URIs of files with the values. Repeatable.",
)
@click.option(
    "--format",
    type=click.Choice(["parquet", "jsonl", "csv"]),
    default="parquet",
    show_default=True,
    help="Of the results.",
)
@click.option("--compression", type=click.Choice(["gzip", "zstd"]), help="Of jsonl and csv.")
@click.option("--dedupe", is_flag=True, help="Run equal records of a shard once.")
@click.option("--shard-rows", type=click.IntRange(min=1), help="Records per shard.")
@click.option(
    "--priority",
    type=click.Choice([priority.queue for priority in Priority]),
    default=Priority.BULK.queue,
    show_default=True,
)
@click.option("--deadline", type=float, help="Seconds after which it ends, with what is done.")
@click.option("--tenant", default="", help="On whose behalf; workers take turns between tenants.")
@click.option("--only-failed", is_flag=True, help="Run the failed records of this dataset again.")
@click.option("--wait/--no-wait", default=True, help="Show progress until it has ended.")
@as_json
def run(
    model: str,
    input: str,
    output: str,
    compression: str | None,
    tenant: str,
    only_failed: bool,
    wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over every record of INPUT, and leave the results in OUTPUT, an empty folder.

    INPUT is a file, a folder or a pattern, INPUT and OUTPUT are paths or s3://bucket/…. The same
    command again does nothing, or goes on where the dataset was cut short. Exit code 1: it did
    not run to its end, or no record succeeded; 5: some records failed.
    """
    with Client(tenant=tenant) as client:
        id = client.submit_dataset(
            model, input, output=output, compression=compression or "", **options
        )
        if wait:
            click.echo(f"dataset {id}, which goes on without this command", err=True)
        if only_failed:
            if wait:
                client.wait_dataset(id)
            client.rerun_failed(id)
        shown = sys.stderr.isatty() and not as_json
        dataset = client.wait_dataset(id, progress=shown) if wait else client.dataset(id)
    _print(dataset, as_json)
    if wait:
        raise SystemExit(_exit(dataset))


@click.group()
def datasets() -> None:
    """See and cancel datasets; `headrace run` makes them."""


@datasets.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in DatasetState]),
    help="Only in this state. Repeatable.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--after", help="The last id of the page before.")
@click.option("--tenant", default="", help="Whose.")
@as_json
def list_(
    states: tuple[str, ...], limit: int, after: str | None, tenant: str, as_json: bool
) -> None:
    """List datasets, newest first."""
    with Client(tenant=tenant) as client:
        found = client.datasets(
            state=states, limit=limit, after=None if after is None else DatasetId(after)
        )
    if as_json:
        print_json({"datasets": [_row(dataset) for dataset in found]})
        return
    print_table(
        ("dataset", "model", "submitted (UTC)", "state", "records", "output"),
        [
            (
                each.id,
                str(each.model),
                f"{each.created_at:%m-%d %H:%M:%S}",
                each.state,
                each.summary,
                each.spec.output,
            )
            for each in found
        ],
        whole=4,
    )


@datasets.command()
@click.argument("dataset")
@as_json
def show(dataset: DatasetId, as_json: bool) -> None:
    """Show DATASET: its counts, and what it waits for or why it ended."""
    with Client() as client:
        found = client.dataset(dataset)
        detail = client.status(dataset).detail
    _print(found, as_json, detail)


@datasets.command()
@click.argument("ids", metavar="DATASET...", nargs=-1, required=True)
def cancel(ids: tuple[DatasetId, ...]) -> None:
    """End datasets; what is done by then stays, and is listed in the manifest."""
    with Client() as client:
        for id in ids:
            cancelled = client.cancel_dataset(id)
            click.echo(f"{id} {'is cancelled' if cancelled else 'had ended'}")


def _exit(dataset: Dataset) -> Exit:
    match dataset.state:
        case DatasetState.SUCCEEDED:
            return Exit.DONE
        case DatasetState.PARTIAL:
            return Exit.PARTIAL
    return Exit.FAILED


def _print(dataset: Dataset, as_json: bool, detail: str = "") -> None:
    row = _row(dataset)
    row = {"id": row.pop("id"), "state": row.pop("state"), "detail": detail or None, **row}
    if as_json:
        print_json(row)
        return
    row = {"records": dataset.summary, **row}
    order = ("id", "state", "detail", "records", "model", "input", "output", "error", "deadline")
    print_table(
        ("", "dataset"), [(name, str(row[name])) for name in order if row[name] is not None]
    )


def _row(dataset: Dataset) -> dict[str, Any]:
    row = dataclasses.asdict(dataset)
    spec, error = row.pop("spec"), dataset.error
    return {
        **row,
        "model": str(dataset.model),
        "priority": dataset.priority.queue,
        "error": None if error is None else f"{error.code}: {error.message}",
        "done": dataset.done,
        "seconds_left": dataset.seconds_left,
        **spec,
        "id": dataset.id,
        "id_column": spec["id"],
    }
