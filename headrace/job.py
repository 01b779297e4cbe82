"""What a job is, and which steps it may take. Pure: no I/O, no clock.

`TRANSITIONS` is the only judge of a step: the bulk statements of `headrace.db` take their
``WHERE state IN (…)`` and ``SET state = …`` from it and hold no state names of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NewType

from headrace.errors import IllegalTransition

JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)
PackId = NewType("PackId", str)


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing will change any more, unless somebody replays the job."""
        return self in TERMINAL


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


class Step(enum.StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    GIVE_BACK = "give_back"
    LOSE = "lose"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Transition:
    """sources: the states the step may start from. target: the state it ends in.

    attempts: what the step adds to ``attempt``, the count of claims that led somewhere: one that
    ended in a give-back or in its worker's death is undone. afresh: the count begins anew.
    """

    sources: frozenset[JobState]
    target: JobState
    attempts: int = 0
    afresh: bool = False


_QUEUED = frozenset({JobState.QUEUED})
_RUNNING = frozenset({JobState.RUNNING})

TRANSITIONS: Mapping[Step, Transition] = {
    Step.CLAIM: Transition(_QUEUED, JobState.RUNNING, attempts=+1),
    Step.SUCCEED: Transition(_RUNNING, JobState.SUCCEEDED),
    Step.FAIL: Transition(_RUNNING, JobState.FAILED),
    Step.RETRY: Transition(_RUNNING, JobState.QUEUED),
    Step.GIVE_BACK: Transition(_RUNNING, JobState.QUEUED, attempts=-1),
    Step.LOSE: Transition(_RUNNING, JobState.QUEUED, attempts=-1),
    Step.CANCEL: Transition(_QUEUED | _RUNNING, JobState.CANCELLED),
    Step.EXPIRE: Transition(_QUEUED | _RUNNING, JobState.EXPIRED),
    Step.REPLAY: Transition(TERMINAL - {JobState.SUCCEEDED}, JobState.QUEUED, afresh=True),
}


def apply(state: JobState, step: Step) -> JobState:
    """The state after `step`. Raises IllegalTransition."""
    transition = TRANSITIONS[step]
    if state not in transition.sources:
        raise IllegalTransition(f"a {state} job cannot {step.replace('_', ' ')}")
    return transition.target


class Priority(enum.IntEnum):
    """Lower runs first."""

    HIGH = 0
    NORMAL = 1
    BULK = 2

    @property
    def queue(self) -> str:
        """The last part of the queue's name."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class ModelKey:
    """One immutable version of a model; prints as ``digits@3``."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Nobody claims jobs of `what` for now.

    what: a model, one version of it, or a pool: ``digits``, ``digits@3``, ``pool:gpu``.
    since: UTC, by the database's clock.
    """

    what: str
    since: datetime
    by: str
    reason: str

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.what} is paused since {self.since:%Y-%m-%d %H:%M:%S} UTC by {self.by}{why}"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why a job failed: a stable code, and a sentence for a person."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the job table, as a client sees it. Times are UTC, by the database's clock.

    attempt: how often a worker has claimed it, less those claims that were given back or whose
    worker died. deaths: worker processes that died with this job alone on their device.
    batch_size: records that ran in the same batch.
    """

    id: JobId
    model: ModelKey
    pool: str
    state: JobState
    priority: Priority
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline: datetime | None = None
    error: ErrorInfo | None = None
    result_uri: str | None = None
    batch_size: int | None = None
    deaths: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """The record's outputs, by name."""

    outputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the record again, not sooner than `delay` seconds from now.

    None: after a pause that grows with every attempt (``[retry]`` in model.toml).
    """

    delay: float | None = None
    message: str = "the model asked for a retry"


@dataclass(frozen=True, slots=True)
class Failed:
    """The record is beyond help: a stable code, and a sentence for a person."""

    code: str
    message: str


Outcome = Done | Retry | Failed
