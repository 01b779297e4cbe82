"""Datasets: their files, their shards, and how fast a model runs."""

import sqlalchemy as sa
from alembic import op

revision = "0002_pre"
down_revision = "0001_pre"
branch_labels = None
depends_on = None

_ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    op.create_table(
        "dataset_files",
        sa.Column("dataset_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("planned", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "number", name="dataset_files_pkey"),
    )
    op.create_table(
        "datasets",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("reading", sa.Text()),
        sa.Column("plan_job_id", _ID, nullable=False),
        sa.Column("run", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("files", sa.Integer(), server_default="0", nullable=False),
        sa.Column("shards", sa.Integer(), server_default="0", nullable=False),
        sa.Column("open_shards", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("duplicates", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("planned_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("deadline", sa.Double()),
        sa.Column("closed_at", sa.Double()),
        sa.Column("error_code", sa.String(length=64)),
        sa.Column("error_message", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="datasets_pkey"),
        sa.UniqueConstraint("output", name="datasets_output"),
    )
    op.create_table(
        "shards",
        sa.Column("dataset_id", _ID, nullable=False),
        sa.Column("file", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run", sa.SmallInteger(), nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("stop", sa.BigInteger(), nullable=False),
        sa.Column("piece", sa.Text()),
        sa.Column("running", sa.BigInteger()),
        sa.Column("trail", sa.Text()),
        sa.Column("sealed", sa.Text()),
        sa.Column("succeeded", sa.BigInteger()),
        sa.Column("failed", sa.BigInteger()),
        sa.Column("duplicates", sa.BigInteger()),
        sa.Column("seconds", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("published_at", sa.Double()),
        sa.PrimaryKeyConstraint("dataset_id", "file", "number", "run", name="shards_pkey"),
        sa.UniqueConstraint("job_id", name="shards_job"),
    )
    op.create_table(
        "speeds",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("rows_per_second", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="speeds_pkey"),
    )
    op.create_index("datasets_tenant", "datasets", ["tenant", "id"])
    op.create_index(
        "datasets_open",
        "datasets",
        ["id"],
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(
        "shards_running",
        "shards",
        ["dataset_id"],
        sqlite_where=sa.text("running IS NOT NULL"),
        postgresql_where=sa.text("running IS NOT NULL"),
    )
    op.create_index(
        "shards_sealed",
        "shards",
        ["dataset_id", "finished_at"],
        sqlite_where=sa.text("finished_at IS NOT NULL AND published_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL AND published_at IS NULL"),
    )
