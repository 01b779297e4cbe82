"""Years of ticks: which dates are run, against the model of cron, minute by minute."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schedules import planner
from headrace.schedules.planner import GRACE, Version, plan
from headrace.schedules.spec import Spec, parse
from tests.unit.schedules_model import MINUTE, Cron, brute, crons, windows

Window = tuple[ZoneInfo, datetime, datetime]
DAY = timedelta(days=1)


def spec(cron: str = "0 2 * * *", tz: str = "UTC", **more: object) -> Spec:
    files = {"input": "in/{date}", "output": "out/{date@UTC:%Y-%m-%dT%H%M}"}
    return parse({"cron": cron, "tz": tz, "model": "m", **files, **more})


@dataclass
class Table:
    """What the database adds: one run per date, and how far the plans have come."""

    decided: datetime
    runs: dict[datetime, int] = field(default_factory=dict)

    def tick(self, versions: list[Version], now: datetime) -> list[datetime]:
        made = []
        while True:
            found = plan(versions, self.decided, now, active=0)
            for due in found.dates:
                if due.date not in self.runs:
                    self.runs[due.date] = due.version.number
                    made.append(due.date)
            self.decided = found.decided
            if found.decided >= now or not found.dates:
                return made


# Ticks on time, late ones, outages of days, and clocks that are put back.
steps = st.lists(
    st.integers(1, 10) | st.integers(1, 300) | st.integers(1000, 4000) | st.integers(-200, -1),
    min_size=1,
    max_size=30,
)


def clock(start: datetime, end: datetime, gaps: list[int]) -> list[datetime]:
    now, shown = start, []
    for minutes in gaps:
        now = max(start, min(end, now + minutes * MINUTE))
        shown.append(now)
    return shown


@given(crons, windows(days=4), steps)
def test_all_runs_every_date_once(cron: Cron, window: Window, gaps: list[int]) -> None:
    zone, start, end = window
    ticks = clock(start, end, gaps)
    versions = [Version(1, start, spec(cron.text, zone.key, catch_up="all"))]
    table, made = Table(start), []
    for now in ticks:
        made += table.tick(versions, now)
    assert sorted(made) == brute(cron, zone, start, max(ticks))


@given(crons, windows(days=4), steps, st.sampled_from(["last", "none"]))
def test_last_and_none_run_the_newest_at_every_tick(
    cron: Cron, window: Window, gaps: list[int], policy: str
) -> None:
    zone, start, end = window
    ticks = clock(start, end, gaps)
    due = brute(cron, zone, start, end)
    versions = [Version(1, start, spec(cron.text, zone.key, catch_up=policy))]
    table, made, decided = Table(start), set(), start
    for now in ticks:
        newest = max((date for date in due if date <= now), default=None)
        expected = newest is not None and newest not in made and newest > min(decided, now)
        if policy == "none":
            expected = expected and newest is not None and now - newest <= GRACE
        assert table.tick(versions, now) == ([newest] if expected else [])
        made |= {newest} if expected else set()
        decided = now


@settings(max_examples=12)
@given(crons, crons, windows(days=4), steps, st.integers(0, 4 * 24 * 60))
def test_an_edit_holds_from_an_instant_on_and_runs_nothing_twice(
    before: Cron, after: Cron, window: Window, gaps: list[int], minutes: int
) -> None:
    zone, start, end = window
    edited = min(end, start + minutes * MINUTE)
    versions = [
        Version(number, since, spec(cron.text, zone.key, catch_up="all"))
        for number, since, cron in ((1, start, before), (2, edited, after))
    ]
    table, ticks = Table(start), [now for now in clock(start, end, gaps) if now >= edited] + [end]
    for now in ticks:
        table.tick(versions, now)
    expected = dict.fromkeys(brute(before, zone, start, edited), 1)
    expected |= dict.fromkeys(brute(after, zone, edited, end), 2)
    assert table.runs == expected


@pytest.mark.parametrize(
    ("tz", "cron", "years"),
    [("Europe/Berlin", "30 2 * * *", 3), ("Australia/Sydney", "15 */6 * * 1-5", 1)],
)
@settings(max_examples=1)
@given(st.integers(0, 1_000_000))
def test_two_beats_for_years(tz: str, cron: str, years: int, seed: int) -> None:
    random = Random(seed)
    zone, start = ZoneInfo(tz), datetime(2027, 1, 1, tzinfo=UTC)
    end = start + years * 365 * DAY
    versions = [Version(1, start, spec(cron, tz, catch_up="all"))]
    table, now, made = Table(start), start, []
    while now < end:
        # Mostly hours apart, sometimes none for three days; a beat is off by some minutes.
        now += timedelta(minutes=random.choice([1, 60, 360, 1440, 4320]))
        for beat in (now, now - timedelta(minutes=random.randint(0, 9))):
            made += table.tick(versions, beat)
    minute, hour, *_ = cron.split()
    wanted = []
    day = start.astimezone(zone).date()
    while day <= now.astimezone(zone).date():
        for wall in (2,) if hour == "2" else (0, 6, 12, 18):
            if hour == "2" or day.isoweekday() <= 5:
                local = datetime(day.year, day.month, day.day, wall, int(minute), tzinfo=zone)
                wanted.append(local.astimezone(UTC))
        day += DAY
    assert made == [due for due in wanted if start < due <= now]


def test_a_long_gap_is_planned_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "AT_ONCE", 2)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    versions = [Version(1, start, spec(catch_up="all"))]
    found = plan(versions, start, start + 3 * DAY, 0)
    assert [due.date.day for due in found.dates] == [1, 2]
    assert found.decided == found.dates[-1].date
    assert all(due.missed for due in found.dates)
    found = plan(versions, found.decided, start + 3 * DAY, 0)
    assert [(due.date.day, due.missed) for due in found.dates] == [(3, False)]
    assert found.next == datetime(2026, 1, 4, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("overlap", "active", "skip", "cancel"),
    [
        ("queue", 2, False, False),
        ("skip", 1, False, False),
        ("skip", 2, True, False),
        ("cancel", 1, False, False),
        ("cancel", 2, False, True),
    ],
)
def test_overlap_counts_from_as_many_as_may_run_at_a_time(
    overlap: str, active: int, skip: bool, cancel: bool
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    versions = [Version(1, start, spec(catch_up="all", overlap=overlap, at_a_time=2))]
    found = plan(versions, start, start + 2 * DAY, active)
    assert [due.skip for due in found.dates] == [False, skip], "what was missed queues up"
    assert found.cancel == cancel
    nothing = plan(versions, found.decided, start + 2 * DAY, active)
    assert not nothing.dates
    assert not nothing.cancel
