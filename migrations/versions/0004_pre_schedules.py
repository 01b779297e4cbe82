"""Schedules, their runs, and what is to be told of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004_pre"
down_revision = "0003_pre"
branch_labels = None
depends_on = None

_ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sent_at", sa.Double()),
        sa.Column("given_up_at", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="notifications_pkey"),
    )
    op.create_table(
        "schedule_runs",
        sa.Column("schedule_id", _ID, nullable=False),
        sa.Column("date", sa.Double(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("at_a_time", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("late_at", sa.Double()),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("deadline", sa.Double()),
        sa.Column("dataset_id", _ID),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancel", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("slow", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error_code", sa.String(length=64)),
        sa.Column("error_message", sa.Text()),
        sa.Column("closed_at", sa.Double()),
        sa.PrimaryKeyConstraint("schedule_id", "date", "number", name="schedule_runs_pkey"),
        sa.UniqueConstraint("schedule_id", "output", "number", name="schedule_runs_output"),
    )
    op.create_table(
        "schedule_ticks",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ticked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="schedule_ticks_pkey"),
    )
    op.create_table(
        "schedule_versions",
        sa.Column("schedule_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "number", name="schedule_versions_pkey"),
    )
    op.create_table(
        "schedules",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("paused_at", sa.Double()),
        sa.Column("paused_by", sa.Text()),
        sa.Column("removed_at", sa.Double()),
        sa.Column("decided_until", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="schedules_pkey"),
        sa.UniqueConstraint("tenant", "name", name="schedules_name"),
    )
    op.create_index(
        "notifications_due",
        "notifications",
        ["due_at"],
        sqlite_where=sa.text("sent_at IS NULL AND given_up_at IS NULL"),
        postgresql_where=sa.text("sent_at IS NULL AND given_up_at IS NULL"),
    )
    op.create_index(
        "schedule_runs_running",
        "schedule_runs",
        ["schedule_id"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "schedule_runs_unclosed",
        "schedule_runs",
        ["finished_at"],
        sqlite_where=sa.text("closed_at IS NULL AND finished_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NULL AND finished_at IS NOT NULL"),
    )
    op.create_index(
        "schedule_runs_waiting",
        "schedule_runs",
        ["priority", "date", "due_at"],
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "schedules_next",
        "schedules",
        ["next_at"],
        sqlite_where=sa.text("paused_at IS NULL AND removed_at IS NULL"),
        postgresql_where=sa.text("paused_at IS NULL AND removed_at IS NULL"),
    )
    # The row that whoever plans or starts holds; it is always there.
    op.execute("INSERT INTO schedule_ticks (id, ticked_at) VALUES (1, 0)")
