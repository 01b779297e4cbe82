"""The tables of schedules and notifications; see `headrace.db.tables` for what times mean."""

from __future__ import annotations

import sqlalchemy as sa

# Whoever takes the metadata from here has all tables in it.
from headrace.db import dataset_tables as _  # noqa: F401
from headrace.db.tables import ID, TIME, metadata, partial

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("paused_at", TIME),
    sa.Column("paused_by", sa.Text),
    # its history stays, so that one of the same name runs nothing twice
    sa.Column("removed_at", TIME),
    # up to when it is decided which dates run, and when there is something to decide again
    sa.Column("decided_until", TIME, nullable=False),
    sa.Column("next_at", TIME),
    sa.UniqueConstraint("tenant", "name", name="schedules_name"),
)
_ticking = schedules.c.paused_at.is_(None) & schedules.c.removed_at.is_(None)
partial("schedules_next", _ticking, schedules.c.next_at)

schedule_versions = sa.Table(
    "schedule_versions",
    metadata,
    sa.Column("schedule_id", ID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # it holds from then on, until the next one does
    sa.Column("since", TIME, nullable=False),
    # headrace.schedules.spec.Spec, as JSON
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
)

schedule_runs = sa.Table(
    "schedule_runs",
    metadata,
    sa.Column("schedule_id", ID, primary_key=True),
    # when the schedule was due
    sa.Column("date", TIME, primary_key=True),
    # 1: the automatic run of the date, or the first that somebody asked for
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("trigger", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("at_a_time", sa.Integer, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    sa.Column("late_at", TIME),
    sa.Column("started_at", TIME),
    sa.Column("finished_at", TIME),
    sa.Column("deadline", TIME),
    sa.Column("dataset_id", ID),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cancel", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("slow", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("succeeded", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    # its report and the pointer to it are written
    sa.Column("closed_at", TIME),
    # A schedule that is moved to another hour does not run the same files again.
    sa.UniqueConstraint("schedule_id", "output", "number", name="schedule_runs_output"),
)
partial(
    "schedule_runs_waiting",
    schedule_runs.c.state == "waiting",
    *(schedule_runs.c[name] for name in "priority date due_at".split()),
)
partial("schedule_runs_running", schedule_runs.c.state == "running", schedule_runs.c.schedule_id)
partial(
    "schedule_runs_unclosed",
    schedule_runs.c.closed_at.is_(None) & schedule_runs.c.finished_at.isnot(None),
    schedule_runs.c.finished_at,
)

schedule_ticks = sa.Table(
    "schedule_ticks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # whoever writes plans or starts holds this row until its commit
    sa.Column("ticked_at", TIME, nullable=False),
)

notifications = sa.Table(
    "notifications",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    # where to, such as mailto:ops@example.org
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("sent_at", TIME),
    # None while it is still tried
    sa.Column("given_up_at", TIME),
    sa.Column("error", sa.Text),
)
partial(
    "notifications_due",
    notifications.c.sent_at.is_(None) & notifications.c.given_up_at.is_(None),
    notifications.c.due_at,
)
