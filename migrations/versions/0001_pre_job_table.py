"""The job table, packs, workers, models."""

import sqlalchemy as sa
from alembic import op

revision = "0001_pre"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ceilings",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=128), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "device", name="ceilings_pkey"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("payload_hash", sa.String(length=64), nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="idempotency_keys_pkey"),
    )
    op.create_index("idempotency_keys_job", "idempotency_keys", ["job_id"])
    op.create_table(
        "jobs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("deadline", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("worker_id", _ID),
        sa.Column("input_pack_id", _ID),
        sa.Column("input_key", sa.Text()),
        sa.Column("input_offset", sa.BigInteger()),
        sa.Column("input_length", sa.BigInteger()),
        sa.Column("pack_id", _ID),
        sa.Column("result_offset", sa.BigInteger()),
        sa.Column("result_length", sa.BigInteger()),
        sa.Column("error_code", sa.String(length=64)),
        sa.Column("error_message", sa.Text()),
        sa.Column("suspect", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("deaths", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("metadata", sa.Text()),
        sa.Column("input", sa.LargeBinary()),
        sa.Column("result", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name="jobs_pkey"),
    )
    op.create_index(
        "jobs_deadline",
        "jobs",
        ["deadline"],
        sqlite_where=sa.text("state IN ('queued', 'running') AND deadline IS NOT NULL"),
        postgresql_where=sa.text("state IN ('queued', 'running') AND deadline IS NOT NULL"),
    )
    op.create_index(
        "jobs_due",
        "jobs",
        ["pool", "priority", "turn", "id", "due_at"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_due_by_model",
        "jobs",
        ["pool", "model", "version", "suspect", "priority", "turn", "id", "due_at"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_failed",
        "jobs",
        ["tenant", "id"],
        sqlite_where=sa.text("state = 'failed'"),
        postgresql_where=sa.text("state = 'failed'"),
    )
    op.create_index(
        "jobs_turn",
        "jobs",
        ["pool", "priority", "tenant", "turn"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_running",
        "jobs",
        ["worker_id"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "model_versions",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("max_records", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="model_versions_pkey"),
        sa.UniqueConstraint("name", "digest", name="model_versions_name_digest"),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("stable", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="models_pkey"),
    )
    op.create_table(
        "packs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("worker_id", _ID),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("size", sa.BigInteger()),
        sa.Column("sha256", sa.String(length=64)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("delete_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="packs_pkey"),
    )
    op.create_index(
        "packs_writing",
        "packs",
        ["worker_id"],
        sqlite_where=sa.text("state = 'writing'"),
        postgresql_where=sa.text("state = 'writing'"),
    )
    op.create_index(
        "packs_deleted",
        "packs",
        ["delete_at"],
        sqlite_where=sa.text("state = 'deleted'"),
        postgresql_where=sa.text("state = 'deleted'"),
    )
    op.create_table(
        "pauses",
        sa.Column("what", sa.String(length=192), nullable=False),
        sa.Column("paused_at", sa.Double(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("what", name="pauses_pkey"),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("swept_at", sa.Double(), nullable=False),
        sa.Column("resumed_at", sa.Double(), nullable=False),
        sa.Column("walked_to", _ID),
        sa.PrimaryKeyConstraint("id", name="sweeps_pkey"),
    )
    op.create_table(
        "workers",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("ready_at", sa.Double()),
        sa.Column("draining_at", sa.Double()),
        sa.Column("stopped_at", sa.Double()),
        sa.Column("on_device", sa.Text(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("id", name="workers_pkey"),
    )
    op.create_index(
        "workers_alive",
        "workers",
        ["pool", "lease_until"],
        sqlite_where=sa.text("stopped_at IS NULL"),
        postgresql_where=sa.text("stopped_at IS NULL"),
    )
    # The row that the sweepers compare and set; it is always there.
    op.execute("INSERT INTO sweeps (id, swept_at, resumed_at) VALUES (1, 0, 0)")
