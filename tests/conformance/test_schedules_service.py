"""Schedules as a person handles them: added, edited, applied, paused, run, filled in, removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace import Client
from headrace.db.engine import Database
from headrace.db.schedule_tables import schedule_runs as runs
from headrace.db.schedule_tables import schedule_versions, schedules
from headrace.errors import InvalidInput, ModelNotFound, ScheduleExists, ScheduleNotFound
from tests.conformance.schedule_table import Site

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    site = Site(database, tmp_path)
    site.now = datetime.now(UTC) + timedelta(minutes=1)  # ahead of the service
    return site


@pytest.fixture
def fields(tmp_path: Path) -> dict[str, object]:
    return {
        "cron": "0 2 * * *",
        "tz": "Europe/Berlin",
        "model": "digits@stable",
        "input": f"{tmp_path}/in/{{date-1d}}/*.jsonl",
        "output": f"{tmp_path}/out/{{date-1d}}/",
    }


def age(site: Site, days: int) -> None:
    """Everything that is there is so much older."""
    seconds = days * 86400.0
    with site.database.write() as connection:
        moved = schedules.c.decided_until - seconds
        connection.execute(sa.update(schedules).values(decided_until=moved, next_at=0.0))
        since = schedule_versions.c.since - seconds
        connection.execute(sa.update(schedule_versions).values(since=since))


def dates(site: Site) -> list[tuple[int, str, str]]:
    """(number, trigger, state) of each run, oldest date first."""
    statement = sa.select(runs.c.number, runs.c.trigger, runs.c.state)
    with site.database.read() as connection:
        rows = connection.execute(statement.order_by(runs.c.date, runs.c.number))
        return [(row.number, row.trigger, row.state) for row in rows]


def test_what_is_added_is_listed_with_its_next_dates(client: Client, fields) -> None:
    added = client.schedules.add("nightly", **fields)
    assert (added.name, added.version, added.last) == ("nightly", 1, None)
    assert client.schedules.every() == [added]
    first, second = client.schedules.next("nightly", 2)
    assert first.date == added.next
    assert second.date - first.date in (23 * HOUR, 24 * HOUR, 25 * HOUR)
    assert first.output.endswith(f"{added.next - DAY:%Y-%m-%d}")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"cron": "never"}, InvalidInput),
        ({"output": "/out"}, InvalidInput),
        ({"model": "nothing"}, ModelNotFound),
        ({"tz": None}, InvalidInput),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_stored(
    client: Client, fields, wrong: dict, error: type
) -> None:
    with pytest.raises(error):
        client.schedules.add("nightly", **fields | wrong)
    assert client.schedules.every() == []


@pytest.mark.parametrize("name", ["", "Nightly", "a b", "-x", "a/b", "x" * 129])
def test_names_are_plain(client: Client, fields, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        client.schedules.add(name, **fields)


def test_there_is_one_of_a_name_for_each_tenant(client: Client, service, fields) -> None:
    client.schedules.add("nightly", **fields)
    with pytest.raises(ScheduleExists):
        client.schedules.add("nightly", **fields)
    other = Client(transport=service, tenant="acme")
    assert other.schedules.every() == []
    other.schedules.add("nightly", **fields)
    with pytest.raises(ScheduleNotFound):
        client.schedules.pause("weekly")


def test_an_edit_is_a_version_from_now_on(client: Client, fields) -> None:
    client.schedules.add("nightly", **fields, retries=3)
    edited = client.schedules.edit("nightly", cron="30 4 * * *", retries=None)
    assert edited.version == 2
    assert edited.spec["cron"] == "30 4 * * *"
    assert "retries" not in edited.spec
    assert client.schedules.edit("nightly", cron="30 4 * * *").version == 2, "nothing changed"
    with pytest.raises(InvalidInput, match="at_a_time"):
        client.schedules.edit("nightly", at_a_time=0)


def test_a_file_is_applied_with_a_diff(client: Client, fields, tmp_path: Path) -> None:
    client.schedules.add("nightly", **fields)
    client.schedules.add("old", **fields | {"output": "old/{date}"})
    path = tmp_path / "schedules.toml"
    text = "\n".join(f"{key} = '{value}'" for key, value in fields.items())
    path.write_text(
        f"version = 1\n[schedules.nightly]\n{text}\nretries = 2\n[schedules.hourly]\n{text}\n"
    )
    said = client.schedules.apply(path, dry_run=True)
    assert [(each.name, each.what) for each in said] == [
        ("hourly", "add"),
        ("nightly", "edit"),
        ("old", "keep"),
    ]
    assert said[1].fields == {"retries": (None, 2)}
    assert [each.name for each in client.schedules.every()] == ["nightly", "old"]
    assert client.schedules.apply(path) == said
    assert [each.what for each in client.schedules.apply(path, prune=True)] == ["remove"]
    assert client.schedules.apply(path, prune=True) == []
    assert [each.name for each in client.schedules.every()] == ["hourly", "nightly"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 2\n[schedules]\n",
        "version = 1\nschedule = {}\n",
        "version = 1\n[schedules]\nnightly = 3\n",
        "version = 1\n[schedules.ok]\ncron = '0 2 * * *'\n",
        "[",
    ],
)
def test_a_file_that_is_wrong_anywhere_changes_nothing(
    client: Client, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "schedules.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        client.schedules.apply(path)
    assert client.schedules.every() == []


def test_what_is_paused_makes_no_runs_and_fills_them_in_afterwards(
    client: Client, site: Site, fields
) -> None:
    client.schedules.add("nightly", **fields, catch_up="all")
    client.schedules.pause("nightly")
    (shown,) = client.schedules.every()
    assert shown.next is None
    assert "@" in (shown.paused_by or "")
    age(site, days=3)
    site.tick()
    assert dates(site) == []
    assert client.schedules.resume("nightly")
    assert not client.schedules.resume("nightly")
    site.tick()
    assert [trigger for _, trigger, _ in dates(site)] == ["missed", "missed", "due"]


def test_what_was_missed_in_a_pause_can_be_left_out(client: Client, site: Site, fields) -> None:
    client.schedules.add("nightly", **fields, catch_up="all")
    client.schedules.pause("nightly")
    age(site, days=3)
    client.schedules.resume("nightly", skip_missed=True)
    site.tick()
    assert dates(site) == []


def test_a_date_is_run_when_somebody_wants_it_and_again_in_a_folder_of_its_own(
    client: Client, site: Site, fields
) -> None:
    client.schedules.add("nightly", **fields)
    first = client.schedules.run("nightly", "2026-03-29")
    again = client.schedules.run("nightly", datetime(2026, 3, 29, 1, 0, tzinfo=UTC))
    assert first.date == again.date == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert (first.number, again.number) == (1, 2)
    assert first.folder.endswith("/out/2026-03-28/run-1")
    assert again.folder.endswith("/out/2026-03-28/run-2")
    assert dates(site) == [(1, "manual", "waiting"), (2, "manual", "waiting")]


def test_a_date_that_ran_before_the_schedule_was_moved_runs_again_as_that(
    client: Client, fields
) -> None:
    client.schedules.add("nightly", **fields)
    first = client.schedules.run("nightly", "2026-03-10")
    client.schedules.edit("nightly", cron="0 5 * * *")
    again = client.schedules.run("nightly", "2026-03-10")
    assert (again.date, again.number) == (first.date, 2)


def test_without_a_date_it_is_the_last_one(client: Client, fields) -> None:
    client.schedules.add("nightly", **fields)
    run = client.schedules.run("nightly")
    assert timedelta(0) <= datetime.now(UTC) - run.date <= 25 * HOUR


@pytest.mark.parametrize(
    "date", ["yesterday", "2026-02-30", "2026-03-10T03:00", "2026-03-10T02:00+05:00"]
)
def test_a_date_that_is_none_is_refused(client: Client, fields, date: str) -> None:
    client.schedules.add("nightly", **fields)
    with pytest.raises(InvalidInput, match="date"):
        client.schedules.run("nightly", date)


def test_of_an_hourly_schedule_a_day_is_not_enough(client: Client, fields) -> None:
    hourly = {"cron": "0 * * * *", "output": "/out/{date:%Y-%m-%dT%H%z}"}
    client.schedules.add("hourly", **fields | hourly)
    with pytest.raises(InvalidInput, match="more than once"):
        client.schedules.run("hourly", "2026-03-10")
    run = client.schedules.run("hourly", "2026-03-10T05:00")
    assert run.output == "/out/2026-03-10T05+0100"


def test_a_backfill_makes_what_is_not_there_and_runs_some_at_a_time(
    client: Client, site: Site, fields
) -> None:
    client.schedules.add("nightly", **fields)
    site.files("2026-03-20", 20)
    before = client.schedules.run("nightly", "2026-03-29")
    said = client.schedules.backfill("nightly", "2026-03-25", "2026-04-03", dry_run=True)
    assert [each.taken for each in said] == [day == 4 for day in range(10)]
    assert said[4].date == before.date, "the day of a clock change is one"
    assert len(dates(site)) == 1
    assert client.schedules.backfill("nightly", "2026-03-25", "2026-04-03", at_a_time=3) == said
    assert len(dates(site)) == 10
    assert len(client.schedules.backfill("nightly", "2026-03-25", "2026-04-03")) == 10
    assert len(dates(site)) == 10
    site.settings = site.settings.model_copy(update={"scheduled_runs": 50})
    site.tick()
    states = [state for _, _, state in dates(site)]
    assert states == ["running"] * 3 + ["waiting"] + ["running"] + ["waiting"] * 5


@pytest.mark.parametrize(
    ("first", "last"), [("2026-04-03", "2026-03-25"), ("2999-01-01", "2999-02-01"), ("x", "y")]
)
def test_a_backfill_of_nothing_is_refused(client: Client, fields, first: str, last: str) -> None:
    client.schedules.add("nightly", **fields)
    with pytest.raises(InvalidInput):
        client.schedules.backfill("nightly", first, last)


def test_a_run_is_cancelled_before_it_starts_and_while_it_runs(
    client: Client, site: Site, fields
) -> None:
    client.schedules.add("nightly", **fields)
    site.files("2026-03-08", 3)
    client.schedules.run("nightly", "2026-03-10")
    site.tick()
    client.schedules.run("nightly", "2026-03-11")
    assert client.schedules.cancel("nightly", "2026-03-10")
    assert client.schedules.cancel("nightly", "2026-03-11", 1)
    assert not client.schedules.cancel("nightly", "2026-03-11")
    site.tick()
    assert [state for _, _, state in dates(site)] == ["running", "cancelled"]
    site.finish(client.schedules.history("nightly")[1], "cancelled")
    site.tick()
    assert [state for _, _, state in dates(site)] == ["cancelled", "cancelled"]
    with pytest.raises(InvalidInput, match="no run"):
        client.schedules.cancel("nightly", "2026-03-12")


def test_one_that_is_removed_and_comes_back_runs_nothing_twice(
    client: Client, site: Site, fields
) -> None:
    client.schedules.add("nightly", **fields, catch_up="all")
    age(site, days=3)
    site.tick()
    client.schedules.remove("nightly")
    assert client.schedules.every() == []
    assert {state for _, _, state in dates(site)} <= {"failed", "cancelled"}
    age(site, days=3)
    site.tick()
    assert len(dates(site)) == 3
    back = client.schedules.add("nightly", **fields, catch_up="all")
    assert back.version == 2
    site.tick()
    assert len(client.schedules.history("nightly")) == 3
