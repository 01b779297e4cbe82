"""``headrace db``: the job table's schema."""

from __future__ import annotations

import click

from headrace.cli.exits import Exit
from headrace.cli.printing import as_json, print_json
from headrace.db import migrate
from headrace.db.engine import Database
from headrace.settings import load_settings, masked


@click.group()
def db() -> None:
    """Bring the job table's schema up to date."""


@db.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Run the migrations that are missing, up to REVISION (by default the newest).

    Several at once wait for each other; where nothing is missing it does nothing.
    """
    database = Database(load_settings().database_url)
    try:
        before = migrate.current(database)
        migrate.upgrade(database, revision)
        after = migrate.current(database)
    finally:
        database.close()
    if before == after:
        click.echo(f"up to date at {after}")
    else:
        click.echo(f"upgraded from {before or 'an empty database'} to {after}")


@db.command()
@as_json
def status(as_json: bool) -> None:
    """Say whether the schema is the one of this release; exit code 1 if it is not."""
    settings = load_settings()
    database = Database(settings.database_url)
    try:
        current, missing = migrate.current(database), migrate.pending(database)
    finally:
        database.close()
    if as_json:
        url = masked(settings.database_url)
        print_json({"database": url, "current": current, "pending": missing})
    elif missing:
        click.echo(
            f"{masked(settings.database_url)} is at {current or 'no revision'}; "
            f"`headrace db upgrade` will run: {', '.join(missing)}"
        )
    else:
        click.echo(f"{masked(settings.database_url)} is up to date at {current}")
    if missing:
        raise SystemExit(Exit.FAILED)
