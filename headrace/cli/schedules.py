"""``headrace schedules``: datasets that run once per date."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from headrace.cli.printing import as_json, print_json, print_table
from headrace.client import Client
from headrace.errors import InvalidInput
from headrace.schedule import Change, Run, Upcoming

_NUMBER = {"at_a_time": int, "retries": int, "slow": float, "partial": float}
_FIELDS = {
    "cron": "When: minute, hour, day, month, weekday, such as '0 2 * * *'.",
    "tz": "By the clock of which time zone, such as Europe/Berlin.  [default: UTC]",
    "model": "Such as digits, digits@stable or digits@3.",
    "input": "What to read, such as 's3://in/{date-1d:%Y/%m/%d}/*.parquet'.",
    "output": "The folder of a date, such as 's3://out/{date-1d:%Y-%m-%d}/'.",
    "catch_up": "Of dates that were missed, run: none, last, all.  [default: last]",
    "overlap": "A date that is due while others run: queue, skip, cancel (them).  [default: queue]",
    "at_a_time": "Runs of this schedule at a time.  [default: 1]",
    "priority": "high, normal or bulk.  [default: bulk]",
    "wait_for": "Begin once this marker is beside the input (_SUCCESS), or so many files.",
    "late_after": "How long to wait for that: 90s, 15min, 4h, 1d.  [default: 1d]",
    "empty": "What no input at all means: fail, skip.  [default: fail]",
    "done_by": "End it then, and keep what is done: 06:00, or 4h from its date.",
    "retries": "How often what failed is run again.  [default: 0]",
    "retry_after": "How long after it failed.  [default: 5min]",
    "slow": "Tell somebody at so many times the median duration.  [default: 3]",
    "partial": "Tell somebody above this share of failed records.  [default: 0]",
}


def _fields(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every field of a schedule."""
    for name, text in reversed(_FIELDS.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=_NUMBER.get(name, str), help=text)(command)
    notify = click.option("--notify", multiple=True, help="Who is told: e-mail; may be repeated.")
    dataset = click.option(
        "--set",
        "dataset",
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of `headrace run`, by its name in Python, as JSON or text: format=csv.",
    )
    return notify(dataset(command))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields among the options that were given, as plain values."""
    fields = {name: value for name, value in options.items() if value not in (None, ())}
    if str(fields.get("wait_for", "")).isdigit():
        fields["wait_for"] = int(fields["wait_for"])
    if "notify" in fields:
        fields["notify"] = list(fields["notify"])
    if "dataset" in fields:
        fields["dataset"] = dict(_setting(text) for text in fields["dataset"])
    return fields


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput("set", f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@click.group()
def schedules() -> None:
    """Run datasets once per date, fill in what was missed, tell somebody when they fail."""


@schedules.command()
@click.argument("name")
@_fields
def add(name: str, **options: Any) -> None:
    """Run a dataset at each date of a cron expression from now on."""
    with Client() as client:
        added = client.schedules.add(name, **_given(options))
    click.echo(f"{name}: first run at {_when(added.next)}")


@schedules.command()
@click.argument("name")
@_fields
@click.option("--unset", multiple=True, metavar="FIELD", help="Take a field back to its default.")
def edit(name: str, unset: tuple[str, ...], **options: Any) -> None:
    """Change a schedule from now on. Dates that have run do not run again."""
    fields = dict.fromkeys((field.replace("-", "_") for field in unset), None)
    with Client() as client:
        edited = client.schedules.edit(name, **fields, **_given(options))
    click.echo(f"{name} is version {edited.version}: next run at {_when(edited.next)}")


@schedules.command()
@click.argument(
    "path", default="schedules.toml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--prune", is_flag=True, help="Remove schedules that the file does not name.")
def apply(path: Path, dry_run: bool, prune: bool) -> None:
    """Have the schedules be those of a file, all or none; shows what changes."""
    with Client() as client:
        changes = client.schedules.apply(path, prune=prune, dry_run=dry_run)
    for change in changes:
        for line in _diff(change):
            click.echo(line)
    changed = sum(change.what != "keep" for change in changes)
    click.echo(f"{changed} {'to change' if dry_run else 'changed'}", err=True)


@schedules.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List schedules: when they run next, and what became of their last run."""
    with Client() as client:
        found = client.schedules.every()
    if as_json:
        print_json([dataclasses.asdict(each) for each in found])
        return
    print_table(
        ("schedule", "cron", "zone", "next", "last run", "was"),
        [
            (
                each.name,
                each.spec["cron"],
                each.spec.get("tz", "UTC"),
                f"paused by {each.paused_by}" if each.paused_at else _when(each.next),
                _when(each.last.date) if each.last else "",
                each.last.state.value if each.last else "",
            )
            for each in found
        ],
    )


@schedules.command("next")
@click.argument("name")
@click.option("-n", "--count", default=10, show_default=True, type=click.IntRange(1, 10_000))
@as_json
def next_(name: str, count: int, as_json: bool) -> None:
    """Show the dates to come, and the files of each."""
    with Client() as client:
        _print_dates(client.schedules.next(name, count), as_json)


@schedules.command()
@click.argument("name")
def pause(name: str) -> None:
    """Plan and start none of its runs for now; what runs goes on."""
    with Client() as client:
        client.schedules.pause(name)
    click.echo(f"{name} is paused")


@schedules.command()
@click.argument("name")
@click.option("--skip-missed", is_flag=True, help="Leave out what was due meanwhile.")
def resume(name: str, skip_missed: bool) -> None:
    """Undo a pause. What was due meanwhile is up to the schedule's catch-up."""
    with Client() as client:
        held = client.schedules.resume(name, skip_missed=skip_missed)
    click.echo("resumed" if held else "it was not paused")


@schedules.command()
@click.argument("name")
@click.option("--date", help="A day, or a time of it: 2026-03-31, 2026-03-31T02:00.")
def run(name: str, date: str | None) -> None:
    """Run a date, or the last one that was due, now; once more where it has run."""
    with Client() as client:
        made = client.schedules.run(name, date)
    click.echo(f"run {made.number} of {_when(made.date)} waits for its turn: {made.folder}")


@schedules.command()
@click.argument("name")
@click.option("--from", "first", required=True, help="The first day.")
@click.option("--to", "last", required=True, help="The last day.")
@click.option("--at-a-time", default=1, show_default=True, type=click.IntRange(1, 1000))
@click.option("--dry-run", is_flag=True, help="Only show the dates.")
@as_json
def backfill(
    name: str, first: str, last: str, at_a_time: int, dry_run: bool, as_json: bool
) -> None:
    """Run every date of a time that has no run yet, oldest first."""
    with Client() as client:
        found = client.schedules.backfill(name, first, last, at_a_time=at_a_time, dry_run=dry_run)
    _print_dates(found, as_json)
    new = sum(not each.taken for each in found)
    click.echo(f"{new} of {len(found)} dates {'to run' if dry_run else 'wait'}", err=True)


@schedules.command()
@click.argument("name")
@click.option("--date", required=True, help="Of the run.")
@click.option("--run", "number", type=int, help="Its number; without it, the last of the date.")
def cancel(name: str, date: str, number: int | None) -> None:
    """End a run of a date."""
    with Client() as client:
        ended = client.schedules.cancel(name, date, number)
    click.echo("it is being cancelled" if ended else "it had ended")


@schedules.command()
@click.argument("name")
def remove(name: str) -> None:
    """Make no more runs. What runs goes on; the history stays, should it be added again."""
    with Client() as client:
        client.schedules.remove(name)
    click.echo(f"{name} is removed")


@schedules.command()
@click.argument("name")
@click.option("-n", "--limit", default=30, show_default=True, type=click.IntRange(1, 10_000))
@as_json
def history(name: str, limit: int, as_json: bool) -> None:
    """Show its runs, newest date first."""
    with Client() as client:
        found = client.schedules.history(name, limit)
    if as_json:
        print_json([dataclasses.asdict(run) | {"folder": run.folder} for run in found])
        return
    columns = ("date (UTC)", "run", "trigger", "state", "records", "failed", "took", "why")
    print_table(columns, [_row(run) for run in found])


def _row(run: Run) -> tuple[str, ...]:
    return (
        f"{run.date:%Y-%m-%d %H:%M}",
        str(run.number),
        run.trigger.value,
        run.state.value,
        f"{run.total:,}",
        f"{run.failed:,}",
        "" if run.seconds is None else f"{run.seconds:.1f} s",
        run.error.message if run.error else "",
    )


def _print_dates(dates: list[Upcoming], as_json: bool) -> None:
    if as_json:
        print_json([dataclasses.asdict(each) for each in dates])
        return
    print_table(
        ("date (UTC)", "input", "output", ""),
        [
            (
                f"{each.date:%Y-%m-%d %H:%M}",
                each.input,
                each.output,
                "has a run" if each.taken else "",
            )
            for each in dates
        ],
    )


def _diff(change: Change) -> list[str]:
    sign = {"add": "+", "edit": "~", "remove": "-", "keep": "?"}[change.what]
    said = {"keep": " is not in the file; --prune removes it"}.get(change.what, "")
    lines = [f"{sign} {change.name}{said}"]
    for field, (was, be) in change.fields.items():
        before = "" if change.what == "add" else f"{json.dumps(was)} → "
        lines.append(f"    {field}: {before}{json.dumps(be)}")
    return lines


def _when(date: datetime | None) -> str:
    return "never" if date is None else f"{date:%Y-%m-%d %H:%M} UTC"
