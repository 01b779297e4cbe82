"""Which dates of a schedule a person means. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from headrace.errors import InvalidInput
from headrace.schedules import spec as specs
from headrace.schedules.planner import Due, Version, dates
from headrace.schedules.spec import Spec

_DAY = timedelta(days=1)
_EVER = datetime(1970, 1, 2, tzinfo=UTC)


def always(version: Version) -> Version:
    """As if it had never been otherwise."""
    return replace(version, since=_EVER)


def meant(version: Version, date: str | None, now: float) -> Due:
    """The one date that is meant; None: the last before `now`. Raises InvalidInput."""
    if date is None:
        last = specs.latest(version.spec, datetime.fromtimestamp(now, UTC))
        if last is None:
            raise InvalidInput("date", "it has never been due yet")
        return Due(last, version)
    start, end = span(date, version.spec, "date")
    found = list(islice(dates([always(version)], start - timedelta(microseconds=1), end), 3))
    if len(found) != 1:
        zone = version.spec.zone
        some = ", ".join(f"{due.date.astimezone(zone):%Y-%m-%dT%H:%M%z}" for due in found)
        problem = f"it is due more than once: {some}, …" if found else "it is not due then"
        raise InvalidInput("date", f"{date}: {problem}")
    return replace(found[0], version=version)


def span(text: str, spec: Spec, field: str) -> tuple[datetime, datetime]:
    """First and last instant of a day, or of a minute, by the clock of the schedule's zone."""
    try:
        start = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            field, f"expected 2026-03-31 or 2026-03-31T02:00, got {text!r}"
        ) from None
    length = _DAY if len(text) <= len("2026-03-31") else timedelta(minutes=1)
    if start.tzinfo is None:
        # By the calendar: the day of a clock change is as long as it is.
        end = (start + length).replace(tzinfo=spec.zone)
        start = start.replace(tzinfo=spec.zone)
        if length != _DAY:
            end = start.astimezone(UTC) + length
    else:
        end = start + length
    return start.astimezone(UTC), end.astimezone(UTC) - timedelta(microseconds=1)
