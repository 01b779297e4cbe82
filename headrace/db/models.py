"""The registry's rows."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from headrace.db.tables import model_versions, models, now


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One immutable version. manifest, files and code are JSON text. created_at: Unix seconds."""

    name: str
    version: int
    digest: str
    pool: str
    max_records: int
    manifest: str
    files: str
    code: str
    stable: bool
    created_at: float


def add(
    connection: sa.Connection,
    *,
    name: str,
    digest: str,
    pool: str,
    max_records: int,
    manifest: str,
    files: str,
    code: str,
) -> int:
    """Add the package as the name's next version and make that the stable one.

    A package that is there already keeps its version, and becomes the stable one again.
    """
    table = model_versions.c
    # The name's row is the lock that gives two pushes two numbers.
    if (
        connection.execute(
            sa.update(models).where(models.c.name == name).values(stable=models.c.stable)
        ).rowcount
        == 0
    ):
        connection.execute(sa.insert(models).values(name=name, stable=0))
    version = connection.execute(
        sa.select(table.version).where(table.name == name, table.digest == digest)
    ).scalar()
    if version is None:
        newest = sa.select(sa.func.coalesce(sa.func.max(table.version), 0))
        version = connection.execute(newest.where(table.name == name)).scalar_one() + 1
        connection.execute(
            sa.insert(model_versions).values(
                name=name,
                version=version,
                digest=digest,
                pool=pool,
                max_records=max_records,
                manifest=manifest,
                files=files,
                code=code,
                created_at=now(),
            )
        )
    connection.execute(sa.update(models).where(models.c.name == name).values(stable=version))
    return int(version)


def find(connection: sa.Connection, name: str, version: int | None) -> VersionRow | None:
    """The version, or the stable one where `version` is None."""
    wanted = models.c.stable if version is None else version
    row = connection.execute(
        _select().where(model_versions.c.name == name, model_versions.c.version == wanted)
    ).one_or_none()
    return None if row is None else VersionRow(*row)


def stable_of_pool(connection: sa.Connection, pool: str) -> list[VersionRow]:
    """The stable versions that a pool serves, newest first."""
    rows = connection.execute(
        _select()
        .where(model_versions.c.pool == pool, model_versions.c.version == models.c.stable)
        .order_by(model_versions.c.created_at.desc())
    )
    return [VersionRow(*row) for row in rows]


def versions(connection: sa.Connection, name: str | None = None) -> list[VersionRow]:
    """Every version (of one name), by name and number."""
    statement = _select().order_by(model_versions.c.name, model_versions.c.version)
    if name is not None:
        statement = statement.where(model_versions.c.name == name)
    return [VersionRow(*row) for row in connection.execute(statement)]


def pools(connection: sa.Connection) -> list[str]:
    """Every pool that a version names, by name."""
    column = model_versions.c.pool
    return list(connection.execute(sa.select(column).distinct().order_by(column)).scalars())


def _select() -> sa.Select[str, int, str, str, int, str, str, str, bool, float]:
    table = model_versions.c
    return sa.select(
        table.name,
        table.version,
        table.digest,
        table.pool,
        table.max_records,
        table.manifest,
        table.files,
        table.code,
        (table.version == models.c.stable).label("stable"),
        table.created_at,
    ).join_from(model_versions, models, models.c.name == table.name)
