"""The index of turns serves only the question for a tenant's last one."""

import sqlalchemy as sa
from alembic import op

revision = "0003_pre"
down_revision = "0002_pre"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("jobs_turn", "jobs")
    op.create_index(
        "jobs_turn",
        "jobs",
        ["pool", "priority", "tenant", "turn"],
        sqlite_where=sa.text("state = 'queued' AND turn >= 1"),
        postgresql_where=sa.text("state = 'queued' AND turn >= 1"),
    )
