"""Many rows, or many ids, as parameters of one statement that is compiled once.

PostgreSQL takes a list of rows as one array per column (``unnest``), in a single statement;
SQLite, which has no arrays, takes the statement once per row, in a single call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _IdList(sa.TypeDecorator[list[str]]):
    """A list of ids: an array, or JSON where there is none."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.ARRAY(sa.Text))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: Iterable[str] | None, dialect: sa.Dialect) -> Any:
        if dialect.name != "postgresql":
            return json.dumps(list(value or ()))
        # What is no UUID is no id of ours; cast to one, it would fail the whole statement.
        return [id for id in value or () if _UUID.fullmatch(id)]


class _Condition(FunctionElement[bool]):
    """Stands in a WHERE as it is.

    SQLAlchemy would compare it with 1 where there are no booleans; then SQLite uses no index.
    """

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> Self:
        return self


class among(_Condition):  # noqa: N801  # reads as the SQL condition it is
    """``column IN ids``, where `ids` is one parameter however many there are."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], ids: str) -> None:
        super().__init__(column, sa.bindparam(ids, type_=_IdList()))


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: Any, **kwargs: Any) -> str:
    column, ids = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: Any, **kwargs: Any) -> str:
    column, ids = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} = ANY(CAST({ids} AS uuid[]))"


class in_few(_Condition):  # noqa: N801
    """``column IN (a subquery)`` of few rows, by index.

    PostgreSQL takes a limit that it cannot see when it plans for a tenth of the table, and
    would read that whole.
    """

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], few: sa.Select[Any]) -> None:
        super().__init__(column, few.scalar_subquery())


@compiles(in_few, "sqlite")
def _in_few_sqlite(element: in_few, compiler: Any, **kwargs: Any) -> str:
    column, few = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} IN {few}"


@compiles(in_few, "postgresql")
def _in_few_postgresql(element: in_few, compiler: Any, **kwargs: Any) -> str:
    column, few = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} = ANY(ARRAY{few})"


class Rows:
    """The parameters of a statement over many rows.

    columns: the rows' columns in order, by name. name: tells them from others in the same
    statement. `c` holds what stands for each of them in
    the statement, and `table` what to select from (None: the statement is for one row).
    """

    def __init__(
        self,
        dialect: sa.Dialect,
        columns: Mapping[str, sa.types.TypeEngine[Any]],
        *,
        name: str = "given",
    ) -> None:
        # An update refuses parameters that are named like the table's columns.
        self._parameters = {column: f"{name}_{column}" for column in columns}
        self.table: sa.FromClause | None = None
        self.c: Mapping[str, sa.ColumnElement[Any]]
        if dialect.name == "postgresql":
            # Selected, not selected from: a function in a FROM has all its rows put aside first,
            # on disk where they are large.
            self.table = sa.select(
                *(
                    sa.func.unnest(
                        sa.cast(sa.bindparam(self._parameters[column]), sa.ARRAY(type)), type_=type
                    ).label(column)
                    for column, type in columns.items()
                )
            ).subquery(f"{name}_rows")
            self.c = dict(self.table.c)
        else:
            self.c = {
                column: sa.bindparam(self._parameters[column], type_=type)
                for column, type in columns.items()
            }

    def execute(
        self,
        connection: sa.Connection,
        statement: sa.Executable,
        rows: Sequence[tuple[Any, ...]],
        **parameters: Any,
    ) -> int:
        """Run the statement over the rows; returns how many rows of the table it changed."""
        if not rows:
            return 0
        if self.table is None:
            names = self._parameters.values()
            given: Any = [dict(zip(names, row, strict=True)) | parameters for row in rows]
        else:
            given = self.arrays(rows) | parameters
        return connection.execute(statement, given).rowcount

    def arrays(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
        """The rows as one array per column, by parameter; for PostgreSQL."""
        columns = zip(*rows, strict=True) if rows else ((),) * len(self._parameters)
        return dict(zip(self._parameters.values(), map(list, columns), strict=True))


def insert_new(
    dialect: sa.Dialect,
    table: sa.Table,
    given: Rows,
    values: Mapping[str, Any],
    unique: list[str] | None,
) -> sa.Insert:
    """Insert the given rows but for those that are there already."""
    if given.table is None:
        return sqlite.insert(table).values(dict(values)).on_conflict_do_nothing(unique)
    rows = sa.select(*values.values()).select_from(given.table)
    return (
        postgresql.insert(table)
        .from_select(list(values), rows)
        .on_conflict_do_nothing(index_elements=unique)
    )
