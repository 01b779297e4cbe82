"""When a schedule is due: against a model that looks at the clock minute by minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.schedules.cron import check_cron, check_zone, dates, latest
from tests.unit.schedules_model import SKIPS_A_DAY, Cron, brute, crons, windows

Window = tuple[ZoneInfo, datetime, datetime]


def until(cron: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    found = []
    try:
        check_cron(cron)
    except InvalidInput:
        assume(False)  # the 31st of February
    for due in dates(cron, zone, start):
        if due > end:
            break
        found.append(due)
    return found


@settings(max_examples=40)
@given(crons, windows(days=3))
def test_it_is_due_when_the_model_says(cron: Cron, window: Window) -> None:
    zone, start, end = window
    expected = brute(cron, zone, start, end)
    assert until(cron.text, zone, start, end) == expected
    last = latest(cron.text, zone, end)
    assert (last if last and last > start else None) == (expected[-1] if expected else None)


@settings(max_examples=5)
@given(crons)
def test_a_day_that_a_country_left_out(cron: Cron) -> None:
    zone, start = ZoneInfo(SKIPS_A_DAY[0]), SKIPS_A_DAY[1]
    end = start + timedelta(days=3)
    assert until(cron.text, zone, start, end) == brute(cron, zone, start, end)


@given(crons, windows(days=3), st.integers(0, 3 * 24 * 60))
def test_where_one_begins_to_ask_changes_nothing(cron: Cron, window: Window, later: int) -> None:
    zone, start, end = window
    middle = min(end, start + timedelta(minutes=later))
    whole = until(cron.text, zone, start, end)
    assert until(cron.text, zone, middle, end) == [due for due in whole if due > middle]


@pytest.mark.parametrize(
    ("tz", "cron", "day", "expected"),
    [
        # Berlin, 29 March 2026: 02:00 to 03:00 is skipped; 25 October: it comes twice.
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["03:30+0200"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["02:30+0200"]),
        ("Europe/Berlin", "0 2,3 * * *", "2026-03-29", ["03:00+0200"]),
        ("Europe/Berlin", "30 */2 * * *", "2026-03-29", "00:30+0100 04:30+0200 06:30+0200"),
        ("Europe/Berlin", "30 */2 * * *", "2026-10-25", "00:30+0200 02:30+0200 02:30+0100"),
        # Sydney goes forward in October and back in April.
        ("Australia/Sydney", "15 2 * * *", "2026-10-04", ["03:15+1100"]),
        ("Australia/Sydney", "15 2 * * *", "2026-04-05", ["02:15+1100"]),
        # Santiago's clocks skip midnight.
        ("America/Santiago", "0 0 * * *", "2026-09-06", ["01:00-0300"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", ["02:45+1100"]),
        ("UTC", "0 0 29 2 *", "2028-02-29", ["00:00+0000"]),
    ],
)
def test_days_worth_knowing(tz: str, cron: str, day: str, expected: list[str] | str) -> None:
    zone = ZoneInfo(tz)
    midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
    wanted = expected.split() if isinstance(expected, str) else expected
    found = until(cron, zone, midnight - timedelta(minutes=1), midnight + timedelta(days=1))
    local = [due.astimezone(zone) for due in found]
    assert [f"{due:%H:%M%z}" for due in local if f"{due:%Y-%m-%d}" == day][: len(wanted)] == wanted


def test_hourly_runs_count_as_many_as_the_day_has_hours() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)):
        start = datetime.fromisoformat(day).replace(tzinfo=zone)
        found = until("0 * * * *", zone, start - timedelta(seconds=1), start + timedelta(days=1))
        assert sum(due.astimezone(zone).date() == start.date() for due in found) == hours


def test_a_skipped_time_is_still_to_come_for_who_asks_after_the_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    asked = datetime(2026, 3, 29, 3, 10, tzinfo=berlin)
    assert next(dates("30 2 * * *", berlin, asked)).astimezone(berlin).hour == 3


def test_it_ends_where_no_date_is_left() -> None:
    rare = datetime(2048, 2, 29, tzinfo=UTC)
    assert next(dates("0 0 29 2 *", ZoneInfo("UTC"), rare)) == datetime(2052, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    "cron", ["", "0 2 * *", "0 0 2 * * *", "60 2 * * *", "0 0 30 2 *", "@daily", "a b c d e"]
)
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput, match="cron"):
        check_cron(cron)


@pytest.mark.parametrize("tz", ["", "Europe/Berln", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_time_zone_is_refused(tz: str) -> None:
    with pytest.raises(InvalidInput, match="tz"):
        check_zone(tz)
