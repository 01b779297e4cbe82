"""The migrations lead to the schema that tables.py says, once, and however often they run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from headrace.db import migrate
from headrace.db.engine import Database
from headrace.db.schedule_tables import metadata
from headrace.db.tables import sweeps
from headrace.errors import ConfigError

VERSIONS = sorted(Path("migrations/versions").resolve().glob("*.py"))
NAME = re.compile(r"(?P<number>\d{4})_(?P<half>pre|post)_[a-z0-9_]+\.py")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/empty.db")
    else:
        database = Database(request.getfixturevalue("postgresql_url"))
        wipe(database)
    yield database
    database.close()


def wipe(database: Database) -> None:
    if database.engine.dialect.name == "postgresql":
        with database.write() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    else:
        with database.write() as connection:
            metadata = sa.MetaData()
            metadata.reflect(connection)
            metadata.drop_all(connection)


def indexes(database: Database) -> set[str]:
    """Every index as the database itself writes it, with its condition."""
    listed = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }
    with database.read() as connection:
        rows = connection.execute(sa.text(listed[database.engine.dialect.name])).scalars()
        # How SQLAlchemy wrote a statement is no matter: its quotes, its line breaks.
        found = {re.sub(r'["\s]+', " ", row).strip() for row in rows}
    return {row for row in found if "alembic" not in row}


def rows(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_there_are_some() -> None:
    assert VERSIONS


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.name)
def test_a_file_is_named_by_number_and_half_and_its_revision_too(path: Path) -> None:
    match = NAME.fullmatch(path.name)
    assert match, "expected NNNN_pre_what.py or NNNN_post_what.py"
    assert f'revision = "{match["number"]}_{match["half"]}"' in path.read_text()


def test_every_one_follows_the_one_before() -> None:
    revisions = ["_".join(path.name.split("_")[:2]) for path in VERSIONS]
    for path, before in zip(VERSIONS, [None, *revisions], strict=False):
        assert f"down_revision = {before and repr(before).replace(chr(39), chr(34))}" in (
            path.read_text()
        )
    assert migrate.latest() == revisions[-1]


def test_the_schema_is_the_one_that_tables_py_says(empty: Database) -> None:
    migrate.upgrade(empty)
    # On an engine as it comes: reflection cannot read what PostgreSQL says in binary.
    with sa.create_engine(empty.engine.url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    migrated = indexes(empty)
    wipe(empty)
    with empty.write() as connection:
        metadata.create_all(connection)
    assert migrated == indexes(empty)


def test_a_second_time_changes_nothing(empty: Database) -> None:
    assert migrate.current(empty) is None
    assert migrate.pending(empty)
    for _ in range(2):
        migrate.upgrade(empty)
        assert migrate.current(empty) == migrate.latest()
        assert migrate.pending(empty) == []
        assert rows(empty, sweeps) == 1


def test_two_processes_at_once_migrate_once(empty: Database) -> None:
    code = "\n".join(
        (
            "import sys",
            "from headrace.db.engine import Database",
            "from headrace.db import migrate",
            "database = Database(sys.argv[1])",
            "print('ready', flush=True)",
            "sys.stdin.readline()",
            "migrate.upgrade(database)",
        )
    )
    url = empty.engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert migrate.current(empty) == migrate.latest()
    assert rows(empty, sweeps) == 1


def test_one_that_fails_leaves_nothing_half_done(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the server went away")

    monkeypatch.setattr("alembic.op.execute", fail)
    with pytest.raises(RuntimeError, match="went away"):
        migrate.upgrade(empty)
    monkeypatch.undo()
    assert migrate.current(empty) is None
    with empty.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    migrate.upgrade(empty)


def test_a_database_from_a_newer_release_is_refused(empty: Database) -> None:
    migrate.upgrade(empty)
    with empty.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999_pre'"))
    with pytest.raises(ConfigError, match="newer"):
        migrate.upgrade(empty)
    with pytest.raises(ConfigError, match="9999_pre"):
        migrate.pending(empty)
