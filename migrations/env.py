"""alembic's entry: runs inside the transaction that `headrace.db.migrate` opened."""

from __future__ import annotations

from alembic import context

from headrace.db.schedule_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
