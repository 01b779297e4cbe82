"""``headrace doctor``: what is wrong with a deployment, and how to mend it."""

from __future__ import annotations

import dataclasses

import click

from headrace.cli.exits import Exit
from headrace.cli.printing import as_json, print_json, print_table
from headrace.db.engine import Database
from headrace.doctor import Level, examine
from headrace.settings import load_settings
from headrace.storage import open_store

_MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.PROBLEM: "✗"}


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Examine a deployment with the settings that hold here; exit code 1 if something is wrong.

    Writes a small object to the store and deletes it; changes nothing else.
    """
    settings = load_settings()
    database = Database(settings.database_url)
    try:
        found = list(examine(settings, database, open_store(settings)))
    finally:
        database.close()
    healthy = all(finding.level is not Level.PROBLEM for finding in found)
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in found]
        print_json({"healthy": healthy, "findings": findings})
    else:
        print_table(
            ("", "check", "finding", "what to do"),
            [(_MARKS[each.level], each.check, each.what, each.mend) for each in found],
            whole=2,
        )
    if not healthy:
        raise SystemExit(Exit.FAILED)
