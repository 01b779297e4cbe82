"""Which dates of a schedule are to run now. Pure: the time is an argument.

What it says may be said twice: the table makes one automatic run of a date, whoever asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from headrace.schedules import cron
from headrace.schedules.spec import Spec

GRACE = timedelta(minutes=5)
"""A date so little overdue is not missed: a tick may be late, and a database restart."""
AT_ONCE = 500
"""Dates that one plan makes runs of; the next one goes on from there."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a schedule asks for from an instant on, until the next version's."""

    number: int
    since: datetime
    spec: Spec


@dataclass(frozen=True, slots=True)
class Due:
    """A date to make a run of. missed: others have become due after it. skip: for overlap."""

    date: datetime
    version: Version
    missed: bool = False
    skip: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """dates: oldest first. cancel: the runs that are not over yet. decided: up to when all is said.

    next: when there is something to say again; None for never.
    """

    dates: tuple[Due, ...]
    cancel: bool
    decided: datetime
    next: datetime | None


def plan(versions: Sequence[Version], decided: datetime, now: datetime, active: int) -> Plan:
    """What is to run of what has become due since `decided`.

    versions: by their `since`, ascending. active: automatic runs that are not over yet.

    A clock that was put back makes dates due again: those that ran are in the table.
    """
    spec = _in_force(versions, now).spec
    if spec.catch_up == "all":
        found = list(itertools.islice(dates(versions, decided, now), AT_ONCE))
        reached = found[-1].date if len(found) == AT_ONCE else now
    else:
        last = _latest(versions, decided, now)
        found = [last] if last else []
        if spec.catch_up == "none":
            found = [due for due in found if now - due.date <= GRACE]
        reached = now
    newest = found[-1] if found and reached == now else None
    overlaps = newest is not None and active >= spec.at_a_time
    skipped = newest if overlaps and spec.overlap == "skip" else None
    return Plan(
        tuple(replace(due, missed=due is not newest, skip=due is skipped) for due in found),
        overlaps and spec.overlap == "cancel",
        reached,
        upcoming(versions, reached),
    )


def upcoming(versions: Sequence[Version], after: datetime) -> datetime | None:
    """The next date after `after`."""
    return next((due.date for due in dates(versions, after, None)), None)


def _in_force(versions: Sequence[Version], at: datetime) -> Version:
    return next((v for v in reversed(versions) if v.since <= at), versions[0])


def dates(versions: Sequence[Version], after: datetime, until: datetime | None) -> Iterator[Due]:
    """Every date after `after`, up to and with `until`, by the version that held then."""
    for version, end in _spans(versions):
        for date in cron.dates(version.spec.cron, version.spec.zone, max(after, version.since)):
            if end is not None and date > end:
                break
            if until is not None and date > until:
                return
            yield Due(date, version)


def _latest(versions: Sequence[Version], after: datetime, until: datetime) -> Due | None:
    """The last of them."""
    for version, end in reversed(list(_spans(versions))):
        found = cron.latest(version.spec.cron, version.spec.zone, min(until, end or until))
        if found is not None and found > max(after, version.since):
            return Due(found, version)
    return None


def _spans(versions: Sequence[Version]) -> Iterator[tuple[Version, datetime | None]]:
    """Each version, and the instant up to which it holds."""
    ends = [version.since for version in versions[1:]]
    return itertools.zip_longest(versions, ends)
