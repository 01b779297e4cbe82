"""``headrace workers``: who takes jobs, and whether this host's workers do."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence

import click

from headrace.cli.printing import as_json, print_json, print_table
from headrace.db.engine import Database
from headrace.db.workers import WorkerInfo, alive
from headrace.heartbeat import listen
from headrace.settings import load_settings


@click.group()
def workers() -> None:
    """See who takes jobs."""


@workers.command("list")
@click.option("--pool", help="Only this pool's.")
@as_json
def list_(pool: str | None, as_json: bool) -> None:
    """List the workers that hold a lease, oldest first."""
    found = _alive(pool)
    if as_json:
        print_json([dataclasses.asdict(worker) for worker in found])
        return
    print_table(
        ("worker", "pool", "device", "host", "pid", "since", "state"),
        [
            (
                worker.id,
                worker.pool,
                worker.device,
                worker.host,
                str(worker.pid),
                f"{worker.started_at:%Y-%m-%d %H:%M:%S}",
                worker.state,
            )
            for worker in found
        ],
    )


@workers.command()
@click.option("--host", default=socket.gethostname, help="Whose workers. Default: this host's.")
def check(host: str) -> None:
    """Exit 0 if the host has workers and all of them are ready: they take jobs."""
    found = [worker for worker in _alive(None) if worker.host == host]
    if not found:
        raise click.ClickException(f"no worker on {host} holds a lease")
    unready = [f"{worker.device} is {worker.state}" for worker in found if worker.state != "ready"]
    if unready:
        raise click.ClickException(f"on {host} {', '.join(unready)}")
    click.echo(f"{len(found)} ready on {host}")


@workers.command()
def live() -> None:
    """Exit 0 if this host's supervisors go round and can mend what they must.

    Else they are to be killed and started again. Asks no server.
    """
    found = listen()
    troubles = list(filter(None, found))
    if troubles or not found:
        raise click.ClickException("; ".join(troubles) or "no supervisor runs here")
    click.echo(f"{len(found)} alive")


def _alive(pool: str | None) -> Sequence[WorkerInfo]:
    database = Database(load_settings().database_url)
    try:
        return database.ask(lambda connection: alive(connection, pool))
    finally:
        database.close()
