"""``headrace status | wait | result | cancel | delete | list``: what became of jobs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import click
import numpy as np

from headrace.cli.exits import Exit
from headrace.cli.printing import as_json, print_json, print_table
from headrace.client import Client
from headrace.errors import InvalidInput
from headrace.job import Job, JobId, JobState

_TOLD = 200
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds."
)


def instant(ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """``90s``, ``15m``, ``2h``, ``3d`` ago, or an ISO 8601 time (UTC where it names no zone)."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r}; expected 15m, 2h or 3d (ago), or a time like 2026-05-01T12:00"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@click.command("list")
@click.option("--model", help="Only of this model, such as digits or digits@3.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in JobState]),
    help="Only in this state. Repeatable.",
)
@click.option("--code", help="Only with this error, such as model_error or quarantined.")
@click.option("--since", callback=instant, help="Submitted since then: 15m, 2h, 3d or a time.")
@click.option("--until", callback=instant, help="Submitted before then.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--cursor", help="What the page before said.")
@as_json
def list_(
    model: str | None,
    states: tuple[str, ...],
    code: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    with Client() as client:
        page = client.list(
            model=model,
            state=states,
            code=code,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json({"jobs": [_row(job) for job in page.jobs], "cursor": page.cursor})
        return
    print_table(
        ("job", "model", "submitted (UTC)", "took", "state", "error"),
        [
            (
                job.id,
                str(job.model),
                f"{job.created_at:%m-%d %H:%M:%S}",
                _took(job),
                job.state,
                _told(job),
            )
            for job in page.jobs
        ],
        whole=5,
    )
    if page.cursor:
        click.echo(f"There are more: --cursor {page.cursor}", err=True)


@click.command()
@click.argument("job")
@as_json
def status(job: JobId, as_json: bool) -> None:
    """Show JOB: its state, and what it waits for or why it ended."""
    with Client() as client:
        found = client.get(job)
        detail = client.status(job).detail
    row = _row(found)
    row = {"id": row.pop("id"), "state": row.pop("state"), "detail": detail, **row}
    if as_json:
        print_json(row)
        return
    shown = ((name, value) for name, value in row.items() if value not in (None, {}))
    print_table(("", "job"), [(name, str(value)) for name, value in shown])


@click.command()
@click.argument("job")
@click.option(
    "--output",
    type=click.File("wb", lazy=True),
    help="Write the tensors to this .npz file instead.",
)
@_timeout
@as_json
def result(job: JobId, output: IO[bytes] | None, timeout: float, as_json: bool) -> None:
    """Wait for JOB and print its outputs. Exit code 1: it ended without; 3: it has not ended."""
    with Client() as client:
        outputs = client.result(job, timeout=timeout)
    if output is not None:
        tensors = {n: value for n, value in outputs.items() if isinstance(value, np.ndarray)}
        np.savez(output, allow_pickle=False, **tensors)
        click.echo(f"{output.name}: {', '.join(tensors) or 'nothing, no output is a tensor'}")
    elif as_json:
        print_json(outputs)
    else:
        print_table(("output", "type", "value"), [(n, *_shown(v)) for n, v in outputs.items()])


@click.command()
@click.argument("ids", metavar="JOB...", nargs=-1, required=True)
@_timeout
@as_json
def wait(ids: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Wait until every JOB has ended (- reads ids from stdin).

    Exit code 0: all succeeded; 1: one did not; 3: one has not ended.
    """
    with Client() as client:
        ended = client.wait(ids_of(ids), timeout=timeout, progress=not as_json)
    counts = Counter(job.state for job in ended)
    if as_json:
        print_json({"jobs": [_row(job) for job in ended], "counts": counts})
    else:
        click.echo(", ".join(f"{count} {state}" for state, count in counts.most_common()))
    if counts[JobState.SUCCEEDED] != len(ended):
        raise SystemExit(Exit.FAILED)


@click.command()
@click.argument("ids", metavar="JOB...", nargs=-1, required=True)
@as_json
def cancel(ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel each JOB that has not ended (- reads ids from stdin), and print which those were."""
    wanted = ids_of(ids)
    with Client() as client:
        cancelled = client.cancel(wanted)
    if as_json:
        print_json({"cancelled": cancelled})
        return
    for id in cancelled:
        click.echo(id)
    click.echo(f"{len(cancelled)} of {len(wanted)} cancelled", err=True)


@click.command()
@click.argument("ids", metavar="JOB...", nargs=-1, required=True)
@as_json
def delete(ids: tuple[str, ...], as_json: bool) -> None:
    """Delete each JOB and its result (- reads ids from stdin), and print which were there.

    All or none: one that has not ended is an error; cancel it first.
    """
    wanted = ids_of(ids)
    with Client() as client:
        deleted = client.delete(wanted)
    if as_json:
        print_json({"deleted": deleted})
        return
    for id in deleted:
        click.echo(id)
    click.echo(f"{len(deleted)} of {len(wanted)} deleted", err=True)


def ids_of(given: tuple[str, ...]) -> list[JobId]:
    """The ids on the command line, or on stdin. Raises InvalidInput."""
    words = sys.stdin.read().split() if given == ("-",) else given
    if not words:
        raise InvalidInput("jobs", "no ids came on stdin")
    return [JobId(word) for word in words]


def _row(job: Job) -> dict[str, Any]:
    error = {"code": job.error.code, "message": job.error.message} if job.error else None
    return {
        "id": job.id,
        "model": str(job.model),
        "state": job.state,
        "priority": job.priority.queue,
        "pool": job.pool,
        "attempt": job.attempt,
        "deaths": job.deaths,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "deadline": job.deadline,
        "batch_size": job.batch_size,
        "result_uri": job.result_uri,
        "error": error,
        "metadata": dict(job.metadata),
    }


def _told(job: Job) -> str:
    """Its error in a few words."""
    if job.error is None:
        return ""
    text = " ".join(job.error.message.split())
    shown = text if len(text) <= _TOLD else text[: _TOLD - 1] + "…"
    return f"{job.error.code}: {shown}"


def _took(job: Job) -> str:
    if job.finished_at is None:
        return ""
    return f"{(job.finished_at - job.created_at).total_seconds():.2f} s"


def _shown(value: Any) -> tuple[str, str]:
    """(type, abbreviated value)."""
    if isinstance(value, np.ndarray):
        text = np.array2string(value, threshold=16, edgeitems=3, precision=5)
        return f"{value.dtype}{list(value.shape)}", text
    text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    return type(value).__name__, text if len(text) <= 1000 else f"{text[:1000]}…"
