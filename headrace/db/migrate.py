"""Brings a database's schema up to date with alembic, from code.

Revisions are split in two branches of one line: ``pre`` (safe while the old release still
runs: new tables, columns, indexes) and ``post`` (after it is gone). File names carry the half.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from headrace.db.engine import Database
from headrace.errors import ConfigError

_LOCK = 0x6865616472616365
"""PostgreSQL's advisory lock for migrations: "headrace"."""


def _config() -> Config:
    root = Path(__file__).resolve().parents[1]
    for folder in (root / "_migrations", root.parent / "migrations"):
        if (folder / "env.py").is_file():
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            return config
    raise ConfigError("the migrations are missing from this installation")


def upgrade(database: Database, revision: str = "head") -> None:
    """Run every migration up to `revision`; two at once wait for each other.

    Raises ConfigError where there is no such revision, or the database is newer.
    """
    config = _config()
    try:
        with database.write() as connection:
            _wait_for_others(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigError(
            f"cannot migrate to {revision!r}, or the database is newer than this release: {error}"
        ) from None


def _wait_for_others(connection: sa.Connection) -> None:
    """One migrates; the others then find it done. On SQLite the write lock sees to that."""
    if connection.dialect.name == "postgresql":
        # Others' migrations, and ours, may take as long as they take; their locks may not.
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.execute(sa.text("SET LOCAL lock_timeout TO DEFAULT"))


def current(database: Database) -> str | None:
    """The revision the database is at; None where nothing was ever run."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def pending(database: Database) -> list[str]:
    """The revisions that `upgrade` would run, in order.

    Raises ConfigError where the database is newer than this release.
    """
    at, scripts = current(database), ScriptDirectory.from_config(_config())
    try:
        return [script.revision for script in scripts.iterate_revisions("head", at or "base")][::-1]
    except RevisionError:
        raise ConfigError(
            f"the database is at revision {at}, which this release does not know: it is newer"
        ) from None


def latest() -> str:
    """The newest revision this release knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head
