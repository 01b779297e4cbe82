"""Names of files that depend on a date."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.schedules.template import render

BERLIN = ZoneInfo("Europe/Berlin")
LEAP = datetime(2028, 3, 1, 2, 0, tzinfo=BERLIN)
NEW_YEAR = datetime(2027, 1, 1, 0, 30, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("template", "date", "expected"),
    [
        ("s3://in/{date-1d:%Y/%m/%d}/*.parquet", LEAP, "s3://in/2028/02/29/*.parquet"),
        ("{date}", LEAP, "2028-03-01"),
        ("{date-1mo:%Y-%m}", datetime(2028, 3, 31, tzinfo=BERLIN), "2028-02"),
        ("{date-1mo}", datetime(2028, 3, 31, tzinfo=BERLIN), "2028-02-29"),
        ("{date-1y}", datetime(2028, 2, 29, tzinfo=BERLIN), "2027-02-28"),
        ("{date+11mo}", NEW_YEAR, "2027-12-01"),
        ("{date-1w:%G-W%V}", NEW_YEAR, "2026-W52"),
        ("{date-1h:%Y/%m/%d/%H}", NEW_YEAR, "2026/12/31/23"),
        ("{date@UTC:%Y-%m-%dT%H}", NEW_YEAR, "2026-12-31T23"),
        ("{date@America/New_York:%H%z}", NEW_YEAR, "18-0500"),
        ("{date@Etc/GMT+12:%H}", NEW_YEAR, "11"),
        ("{date-1mo-1d:%j}", NEW_YEAR, "334"),
        ("{date-90min:%H%M}", NEW_YEAR, "2300"),
        ("{{a,b}}/{date:100%%}", NEW_YEAR, "{a,b}/100%"),
        ("plain", NEW_YEAR, "plain"),
        # Where the clock was changed at 02:00, days go by the calendar and hours as they run.
        ("{date-1d:%d %H%z}", datetime(2026, 3, 30, 2, 30, tzinfo=BERLIN), "29 03+0200"),
        ("{date-1d:%d %H%z}", datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN), "25 02+0200"),
        ("{date-2h:%H%z}", datetime(2026, 3, 29, 4, 0, tzinfo=BERLIN), "01+0100"),
        ("{date-1h:%H%z}", datetime(2026, 10, 25, 3, 0, tzinfo=BERLIN), "02+0100"),
    ],
)
def test_what_a_template_becomes(template: str, date: datetime, expected: str) -> None:
    assert render(template, date) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{", "}", "{}", "{0}", "{day}", "{date-1}", "{date-1m}", "{date-1q}", "{date - 1d}",
        "{date.year}", "{date[0]}", "{date!r}", "{date:%Q}", "{date:%}", "{date@Nowhere}",
        "{date-9999y}", "{date:{date}}", "{date-99999d}",
    ],
)  # fmt: skip
def test_what_is_none_is_refused_by_its_field(template: str) -> None:
    with pytest.raises(InvalidInput, match="output: "):
        render(template, NEW_YEAR, "output")


@given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)), st.integers(-99, 99))
def test_hours_are_as_long_as_they_are(moment: datetime, hours: int) -> None:
    date = moment.replace(tzinfo=UTC).astimezone(BERLIN)
    shown = render(f"{{date{hours:+}h@UTC:%Y-%m-%d %H:%M:%S}}", date)
    expected = date.astimezone(UTC) + timedelta(hours=hours)
    assert shown == f"{expected:%Y-%m-%d %H:%M:%S}"
