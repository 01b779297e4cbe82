"""Cron, minute by minute: what `headrace.schedules` is held to. It shares no code with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",  # half an hour off, and once changed its clocks at 00:01
    "America/Santiago",  # southern, at midnight
    "Australia/Sydney",
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Auckland",
    "Africa/Casablanca",  # back for Ramadan
    "Asia/Kolkata",
)
SKIPS_A_DAY = ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC))


@dataclass(frozen=True)
class Field:
    text: str
    values: frozenset[int]

    @property
    def star(self) -> bool:
        return self.text.startswith("*")


@dataclass(frozen=True)
class Cron:
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def text(self) -> str:
        fields = (self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(field.text for field in fields)

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minute.values or wall.hour not in self.hour.values:
            return False
        if wall.month not in self.month.values:
            return False
        by_day, by_weekday = (
            wall.day in self.day.values,
            wall.isoweekday() % 7 in self.weekday.values,
        )
        if self.day.star or self.weekday.star:
            return by_day and by_weekday
        return by_day or by_weekday


def brute(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The instants in (start, end], by looking at the clock at each minute."""
    return [instant for instant in _walk(cron, zone, start - 2 * DAY, end) if instant > start]


def _walk(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    shown: set[datetime] = set()
    skipped: list[tuple[datetime, datetime]] = []  # at which instant, what the clock did not show
    instant, offset = start, _offset(zone, start)
    while instant <= end:
        now = _offset(zone, instant)
        if now > offset:
            gap = (now - offset) // MINUTE
            before = instant.replace(tzinfo=None) + offset
            skipped += [(instant + n * MINUTE, before + n * MINUTE) for n in range(gap)]
        offset = now
        wall = instant.replace(tzinfo=None) + offset
        if cron.hour.star:
            due = cron.matches(wall)
        else:
            due = cron.matches(wall) and wall not in shown
            due = due or any(at == instant and cron.matches(unseen) for at, unseen in skipped)
            shown.add(wall)
        if due:
            yield instant
        instant += MINUTE


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> Field:
    kind = draw(st.sampled_from(["*", "*/n", "list", "range", "range/n"]))
    span = range(low, high + 1)
    if kind == "*":
        return Field("*", frozenset(span))
    step = draw(st.integers(1, high - low))
    if kind == "*/n":
        return Field(f"*/{step}", frozenset(span[::step]))
    if kind == "list":
        return _listed(draw(st.sets(st.integers(low, high), min_size=1, max_size=4)))
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    if kind == "range":
        return Field(f"{first}-{last}", frozenset(range(first, last + 1)))
    if first == last:
        return Field(str(first), frozenset([first]))
    return Field(f"{first}-{last}/{step}", frozenset(range(first, last + 1, step)))


def _any(low: int, high: int) -> Field:
    return Field("*", frozenset(range(low, high + 1)))


def _listed(values: set[int]) -> Field:
    return Field(",".join(map(str, sorted(values))), frozenset(values))


crons = st.builds(
    Cron,
    fields(0, 59),
    # the hours in which clocks change, often
    fields(0, 23) | st.builds(_listed, st.sets(st.integers(0, 3), min_size=1)),
    st.just(_any(1, 31)) | fields(1, 31),
    st.just(_any(1, 12)) | fields(1, 12),
    st.just(_any(0, 6)) | fields(0, 6),
)


@st.composite
def windows(draw: st.DrawFn, days: int) -> tuple[ZoneInfo, datetime, datetime]:
    """A zone and some days of it, more often than not around a change of its clocks."""
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    around = datetime(2005, 1, 1, tzinfo=UTC) + draw(st.integers(0, 25 * 365)) * DAY
    for day in range(200) if draw(st.integers(0, 3)) else ():
        if _offset(zone, around + day * DAY) != _offset(zone, around + (day + 1) * DAY):
            around += day * DAY
            break
    start = around - draw(st.integers(0, 2 * 24 * 60)) * MINUTE
    return zone, start, start + draw(st.integers(1, days)) * DAY
