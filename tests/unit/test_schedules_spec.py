"""What one schedule asks for is checked as a whole."""

from datetime import UTC, datetime

import pytest

from headrace.errors import InvalidInput
from headrace.schedules.spec import Spec, check, parse, seconds

NIGHTLY = {
    "cron": "0 2 * * *",
    "tz": "Europe/Berlin",
    "model": "digits@stable",
    "input": "s3://in/{date-1d:%Y/%m/%d}/*.parquet",
    "output": "s3://out/{date-1d:%Y-%m-%d}/",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_date_has_its_files_by_the_clock_of_the_zone() -> None:
    spec = parse(NIGHTLY)
    date = datetime(2026, 7, 1, 0, 0, tzinfo=UTC)
    assert spec.input_at(date) == "s3://in/2026/06/30/*.parquet"
    assert spec.output_at(date) == "s3://out/2026-06-30"
    check(spec, NOW)


def test_it_comes_back_from_json_as_it_was() -> None:
    spec = parse(NIGHTLY | {"wait_for": 24, "notify": ["ops@example.org"], "done_by": "06:00"})
    assert Spec.model_validate_json(spec.model_dump_json(exclude_defaults=True)) == spec


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"cron": "0 25 * * *"}, "cron"),
        ({"tz": "Europe/Berln"}, "tz"),
        ({"model": ""}, "model"),
        ({"catch_up": "some"}, "catch_up"),
        ({"at_a_time": 0}, "at_a_time"),
        ({"wait_for": "../x"}, "wait_for"),
        ({"late_after": "4 hours"}, "late_after"),
        ({"done_by": "24:00"}, "done_by"),
        ({"notify": ["ops"]}, "notify"),
        ({"notify": ["a@b\nBcc: c@d"]}, "notify"),
        ({"slow": 1.0}, "slow"),
        ({"outptu": "x"}, "outptu"),
    ],
)
def test_a_wrong_field_is_named(wrong: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(NIGHTLY | wrong)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"input": "{date-1m}"}, "input"),
        ({"output": "{nothing}"}, "output"),
        ({"output": "out"}, "output"),
        ({"output": "{date:%Y-%m}"}, "output"),
        ({"cron": "0 2,14 * * *"}, "output"),
        # Only on one day of the year is an hour too little to tell two runs apart.
        ({"cron": "0 * * * *", "output": "{date:%Y-%m-%dT%H}"}, "output"),
    ],
)
def test_files_of_two_dates_are_told_apart(wrong: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(parse(NIGHTLY | wrong), NOW)
    assert refused.value.field == field
    check(parse(NIGHTLY | {"cron": "0 * * * *", "output": "{date:%Y-%m-%dT%H%z}"}), NOW)


@pytest.mark.parametrize(
    ("done_by", "deadline"),
    [
        (None, None),
        ("06:00", "2026-07-01T04:00+00:00"),
        ("02:00", "2026-07-02T00:00+00:00"),
        ("01:30", "2026-07-01T23:30+00:00"),
        ("90min", "2026-07-01T01:30+00:00"),
    ],
)
def test_done_by_is_the_next_such_time(done_by: str | None, deadline: str | None) -> None:
    spec = parse(NIGHTLY | {"done_by": done_by})
    found = spec.deadline_at(datetime(2026, 7, 1, 0, 0, tzinfo=UTC))
    assert found == (deadline and datetime.fromisoformat(deadline))


def test_durations() -> None:
    assert [seconds(text) for text in ("90s", "1.5min", "2h", "1d")] == [90, 90, 7200, 86400]
