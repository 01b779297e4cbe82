"""When a cron expression is due, by the clock on the wall of a time zone. Pure.

The expression is matched against dates and times without a zone, by cronsim; what becomes of
those that a clock change skips or doubles is decided here:

- An hour field that begins with ``*`` means "all day long": such times follow the clock as it
  runs. What is skipped does not happen, and what is doubled happens twice.
- Any other time happens once a day. One that is skipped comes later by as much as the clock was
  put forward (02:30 at 03:30), one that is doubled at its first occurrence (RFC 5545, 3.3.5).

Two times that fall on one instant are one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from headrace.errors import InvalidInput

_FURTHEST = timedelta(hours=26)
"""No clock change moves a time further: Samoa once left out a whole day."""
_FIELDS = 5


def check_cron(cron: str, field: str = "cron") -> None:
    """Raises InvalidInput where `cron` is none, or never due."""
    if len(cron.split()) != _FIELDS:
        raise InvalidInput(
            field, f"expected minute, hour, day, month and weekday ('0 2 * * *'), got {cron!r}"
        )
    try:
        next(CronSim(cron, datetime(2000, 1, 1)))
    except CronSimError as error:
        raise InvalidInput(field, f"{str(error)[:1].lower()}{str(error)[1:]} in {cron!r}") from None
    except StopIteration:
        raise InvalidInput(field, f"{cron!r} is never due") from None


def check_zone(tz: str, field: str = "tz") -> ZoneInfo:
    """The time zone of that name. Raises InvalidInput."""
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        raise InvalidInput(field, f"no time zone {tz!r}; expected one as Europe/Berlin") from None


def dates(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants after `after` at which it is due, in order, in UTC."""
    pending: list[datetime] = []
    last = after
    for wall in chain(CronSim(cron, _wall(after, zone) - _FURTHEST), (None,)):
        # From this wall time on, nothing is due before `safe`.
        safe = _readings(wall, zone)[0] - _FURTHEST if wall else None
        while pending and (safe is None or pending[0] < safe):
            if (due := heapq.heappop(pending)) > last:
                yield due
                last = due
        for instant in _instants(cron, wall, zone) if wall else ():
            heapq.heappush(pending, instant)


def latest(cron: str, zone: ZoneInfo, until: datetime) -> datetime | None:
    """The last instant at which it was due, not after `until`; in UTC."""
    found: datetime | None = None
    for wall in CronSim(cron, _wall(until, zone) + _FURTHEST, reverse=True):
        if found and _readings(wall, zone)[1] < found - _FURTHEST:
            break
        for instant in _instants(cron, wall, zone):
            if instant <= until and (found is None or instant > found):
                found = instant
    return found


def _instants(cron: str, wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """When it is due for the clock's showing `wall`."""
    first, second = _readings(wall, zone)
    if first == second or not cron.split()[1].startswith("*"):
        return [first]
    skipped = first > second
    return [] if skipped else [first, second]


def _readings(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """`wall` by the offset from before a clock change, and by the one from after it."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, second


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)
