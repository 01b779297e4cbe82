"""``headrace replay``: queue jobs again that ended without a result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from headrace.cli.jobs import ids_of, instant
from headrace.cli.printing import as_json, print_json
from headrace.client import Client
from headrace.job import TRANSITIONS, JobId, JobState, Step

_AT_ONCE = 1000
_REPLAYABLE = TRANSITIONS[Step.REPLAY].sources


@click.command()
@click.argument("ids", metavar="[JOB]...", nargs=-1)
@click.option("--model", help="All of this model, such as digits or digits@3.")
@click.option("--code", help="All with this error, such as model_error or quarantined.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(sorted(state.value for state in _REPLAYABLE)),
    help="All that ended so, not only those that failed. Repeatable.",
)
@click.option("--since", callback=instant, help="All submitted since then: 15m, 2h, 3d or a time.")
@click.option("--until", callback=instant, help="All submitted before then.")
@click.option("--all", "everything", is_flag=True, help="Every job that failed.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    help="In seconds from now.",
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
@as_json
def replay(
    ids: tuple[str, ...],
    everything: bool,
    deadline: float | None,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Queue each JOB again (- reads ids from stdin), or all that failed and match every option.

    They keep their ids, and start with a clean record and without their old deadline.
    """
    filtered = any(filters.values()) or everything
    if bool(ids) == filtered:
        raise click.UsageError("name jobs, or say which by --model, --code and so on, or --all")
    with Client() as client:
        found = _named(client, ids_of(ids), dry_run) if ids else _matching(client, **filters)
        count = sum(
            len(some) if dry_run else len(client.replay(some, deadline=deadline)) for some in found
        )
    if as_json:
        print_json({"jobs": count, "dry_run": dry_run})
    else:
        click.echo(f"{count} jobs {'would be queued' if dry_run else 'queued'} again")


def _named(client: Client, ids: list[JobId], checked: bool) -> Iterator[list[JobId]]:
    """The jobs; checked: only those that a replay would queue."""
    yield [id for id in ids if client.get(id).state in _REPLAYABLE] if checked else ids


def _matching(
    client: Client,
    *,
    model: str | None,
    code: str | None,
    states: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
) -> Iterator[list[JobId]]:
    cursor: str | None = None
    while True:
        page = client.list(
            model=model,
            state=states or JobState.FAILED,
            code=code,
            since=since,
            until=until,
            limit=_AT_ONCE,
            cursor=cursor,
        )
        yield [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return
