"""job.py's transitions, in SQL.

States stand in the statements as literals, not as parameters: a partial index is only used
where the planner can see that its condition holds.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from headrace.db.tables import jobs
from headrace.job import TRANSITIONS, JobState, Step


def literal(state: JobState) -> sa.ColumnElement[str]:
    """The state as SQL text."""
    return sa.literal_column(f"'{state.value}'", sa.String)


def in_state(*states: JobState, by_id: bool = False) -> sa.ColumnElement[bool]:
    """Whether a job is in one of `states`.

    by_id: for a statement that knows the ids. It hides the state from the planner, which
    would rather read a partial index whole, for every single job, than use the primary key.
    """
    state = jobs.c.state.concat(sa.literal_column("''")) if by_id else jobs.c.state
    if len(states) == 1:
        return state == literal(states[0])
    return state.in_([literal(state) for state in sorted(states)])


def may(step: Step, *, by_id: bool = False) -> sa.ColumnElement[bool]:
    """Whether a job's state allows the step. by_id: as in `in_state`."""
    return in_state(*TRANSITIONS[step].sources, by_id=by_id)


def takes(step: Step) -> dict[str, Any]:
    """What the step sets in ``jobs``, by column name; for ``update(jobs).values(**takes(…))``."""
    transition = TRANSITIONS[step]
    values: dict[str, Any] = {"state": literal(transition.target)}
    if transition.attempts:
        values["attempt"] = jobs.c.attempt + transition.attempts
    if transition.afresh:
        # A worker may still be at a job that was cancelled or expired under its hands, and must
        # not end the next run of it, which could be its own.
        begun = sa.and_(jobs.c.worker_id.isnot(None), jobs.c.state != literal(JobState.FAILED))
        values |= {"attempt": sa.case((begun, jobs.c.attempt), else_=0), "deaths": 0}
    if transition.target is JobState.QUEUED:
        # What comes back has waited for its turn already.
        values |= {"worker_id": None, "started_at": None, "turn": 0}
    return values
