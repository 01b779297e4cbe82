"""The tables of datasets; see `headrace.db.tables` for the rest, and for what times mean.

A shard is a row of ``jobs`` too, in a line of its own (``pool/shards``), and so is a dataset's
plan (``pool/plans``): leases, attempts, suspects and cancelling are those of jobs.
"""

from __future__ import annotations

import sqlalchemy as sa

from headrace.db.tables import ID, TIME, metadata, partial

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("pool", sa.String(64), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    # the folder the results go to, which nobody else may write to
    sa.Column("output", sa.Text, nullable=False),
    # headrace.dataset.Spec, as JSON
    sa.Column("spec", sa.Text, nullable=False),
    # Once planned: the columns and the Arrow schema that every file is read with, as JSON
    sa.Column("reading", sa.Text),
    sa.Column("plan_job_id", ID, nullable=False),
    sa.Column("run", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("files", sa.Integer, nullable=False, server_default="0"),
    sa.Column("shards", sa.Integer, nullable=False, server_default="0"),
    # not yet published
    sa.Column("open_shards", sa.Integer, nullable=False, server_default="0"),
    sa.Column("total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("succeeded", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("duplicates", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("started_at", TIME),
    sa.Column("planned_at", TIME),
    sa.Column("finished_at", TIME),
    sa.Column("deadline", TIME),
    # set once manifest and marker are written: nobody needs to look at it any more
    sa.Column("closed_at", TIME),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.UniqueConstraint("output", name="datasets_output"),
)
sa.Index("datasets_tenant", datasets.c.tenant, datasets.c.id)
partial("datasets_open", datasets.c.closed_at.is_(None), datasets.c.id)

dataset_files = sa.Table(
    "dataset_files",
    metadata,
    sa.Column("dataset_id", ID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    # whether all of its shards are there
    sa.Column("planned", sa.Boolean, nullable=False, server_default=sa.false()),
)

shards = sa.Table(
    "shards",
    metadata,
    sa.Column("dataset_id", ID, primary_key=True),
    sa.Column("file", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    # 1; a later run is for the failed records of the one before
    sa.Column("run", sa.SmallInteger, primary_key=True),
    sa.Column("job_id", ID, nullable=False),
    # which rows: see headrace.datasets.shards.Shard
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("stop", sa.BigInteger, nullable=False),
    # the file that the rows were laid down in: uri, size and tag, as JSON
    sa.Column("piece", sa.Text),
    # rows that the worker which runs it has done; null while none does
    sa.Column("running", sa.BigInteger),
    # Of a suspect: the rows on the device, and what earlier deaths have told, as JSON
    sa.Column("trail", sa.Text),
    # what its finish stored: the output files, as JSON, to be published
    sa.Column("sealed", sa.Text),
    sa.Column("succeeded", sa.BigInteger),
    sa.Column("failed", sa.BigInteger),
    sa.Column("duplicates", sa.BigInteger),
    # of work, on one worker
    sa.Column("seconds", sa.Double),
    sa.Column("finished_at", TIME),
    sa.Column("published_at", TIME),
    sa.UniqueConstraint("job_id", name="shards_job"),
)
partial("shards_running", shards.c.running.isnot(None), shards.c.dataset_id)
partial(
    "shards_sealed",
    shards.c.finished_at.isnot(None) & shards.c.published_at.is_(None),
    shards.c.dataset_id,
    shards.c.finished_at,
)

# How fast a version runs on one worker of its pool, measured on the last shards.
speeds = sa.Table(
    "speeds",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("rows_per_second", sa.Double, nullable=False),
    sa.Column("changed_at", TIME, nullable=False),
)
