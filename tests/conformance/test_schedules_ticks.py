"""What ticks make of schedules, on either database: each date once, whoever ticks."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace.db import schedule_runs
from headrace.db.engine import Database
from headrace.errors import DatabaseUnavailable, ModelNotFound, StoreUnavailable
from headrace.schedule import RunState
from headrace.schedules import starting
from headrace.schedules.order import Order
from tests.conformance.schedule_table import Prepared, Site

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    site = Site(database, tmp_path)
    site.files("2026-02-27", 12)
    return site


def test_a_date_runs_once_however_many_tick_at_once(site: Site) -> None:
    ids = [site.add(catch_up="all", at_a_time=9) for _ in range(3)]
    for number, id in enumerate(ids):
        site.edit(id, output=f"{site.folder}/out-{number}/{{date}}")
    site.settings = site.settings.model_copy(update={"scheduled_runs": 100})
    site.now += 3 * DAY + 3 * HOUR
    barrier, errors = threading.Barrier(4), []

    def beat() -> None:
        ticker = site.ticker()
        barrier.wait()
        try:
            for _ in range(3):
                ticker.tick()
        except BaseException as error:
            errors.append(error)
            raise

    beats = [threading.Thread(target=beat) for _ in range(4)]
    for thread in beats:
        thread.start()
    for thread in beats:
        thread.join()
    assert not errors
    for id in ids:
        assert site.told(id) == [(1, "running"), (2, "running"), (3, "running"), (4, "running")]
    assert len(site.datasets()) == 12


def test_however_many_start_at_once_no_more_run_than_may(site: Site, monkeypatch) -> None:
    id = site.add(catch_up="all", at_a_time=50)
    site.settings = site.settings.model_copy(update={"scheduled_runs": 2})
    site.now += 10 * DAY
    monkeypatch.setattr(site.runs, "refused", {"m": StoreUnavailable("not yet")})
    site.tick()
    site.runs.refused.clear()
    site.now += MINUTE
    # All have looked whether there is room before the first one begins.
    barrier, start = threading.Barrier(3, timeout=1), Prepared.start

    looked: list[str] = []

    def prepare(order: Order, prepare=site.runs.prepare) -> Prepared:
        looked.append(order.output)
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
        return prepare(order)

    def starts_slowly(self: Prepared, connection: sa.Connection) -> object:
        time.sleep(0.1)  # while the transaction is open
        return start(self, connection)

    monkeypatch.setattr(site.runs, "prepare", prepare)
    monkeypatch.setattr(Prepared, "start", starts_slowly)
    beats = [threading.Thread(target=site.ticker().tick) for _ in range(6)]
    for thread in beats:
        thread.start()
    for thread in beats:
        thread.join()
    assert [state for _, state in site.told(id)].count("running") == 2
    assert len(looked) == len(set(looked)), "one looks at a run at a time"


def test_nobody_for_three_days_and_then_all_one_at_a_time(site: Site) -> None:
    id = site.add(catch_up="all")
    site.tick(3 * DAY + 3 * HOUR)
    assert site.told(id) == [(1, "running"), (2, "waiting"), (3, "waiting"), (4, "waiting")]
    for _ in range(4):
        site.finish_all(id)
        site.tick()
    assert site.told(id) == [(day, "succeeded") for day in (1, 2, 3, 4)]
    triggers = [run.trigger.value for run in site.history(id)]
    assert triggers == ["missed", "missed", "missed", "due"]
    assert site.datasets() == [
        f"{site.folder}/out/{day}/run-1"
        for day in ("2026-02-28", "2026-03-01", "2026-03-02", "2026-03-03")
    ]


@pytest.mark.parametrize(("policy", "days"), [("last", [4]), ("none", [])])
def test_what_was_missed_is_left_out_as_the_policy_says(
    site: Site, policy: str, days: list
) -> None:
    id = site.add(catch_up=policy)
    site.tick(3 * DAY + 3 * HOUR)
    assert [day for day, _ in site.told(id)] == days
    site.finish_all(id)
    site.tick(23 * HOUR + MINUTE)
    assert [day for day, _ in site.told(id)] == [*days, 5]


def test_a_clock_that_is_put_back_runs_nothing_again_and_loses_nothing(site: Site) -> None:
    id = site.add()
    site.tick(2 * HOUR)
    assert site.told(id) == [(1, "running")]
    site.tick(-3 * HOUR)
    site.tick(30 * DAY)
    site.tick(-29 * DAY)
    site.tick(-2 * HOUR)
    site.tick(5 * HOUR)
    assert [day for day, _ in site.told(id)] == [1, 2, 30]


def test_a_schedule_that_is_moved_does_not_run_the_same_files_again(site: Site) -> None:
    id = site.add()
    site.tick(2 * HOUR)
    site.edit(id, cron="0 5 * * *")
    site.tick(4 * HOUR)
    assert site.told(id) == [(1, "running")]
    site.finish_all(id)
    site.tick(DAY)
    second = site.history(id)[1]
    assert second.date == datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert second.version == 2


@pytest.mark.parametrize(
    ("overlap", "after"),
    [
        ("queue", ["running", "waiting"]),
        ("skip", ["running", "skipped"]),
        ("cancel", ["cancelled", "running"]),
    ],
)
def test_a_date_that_is_due_while_the_one_before_runs(
    site: Site, overlap: str, after: list
) -> None:
    id = site.add(overlap=overlap)
    site.tick(2 * HOUR)
    site.tick(DAY)
    site.tick()  # the dataset is cancelled
    site.tick()
    assert [state for _, state in site.told(id)] == after
    if overlap == "skip":
        assert not site.messages(), "what was asked for is no news"


def test_over_all_schedules_no_more_run_than_the_settings_say(site: Site) -> None:
    ids = [site.add(output=f"{site.folder}/{name}/{{date}}", priority=priority)
           for name, priority in (("a", "bulk"), ("b", "bulk"), ("c", "high"))]  # fmt: skip
    site.settings = site.settings.model_copy(update={"scheduled_runs": 2})
    site.tick(2 * HOUR)
    assert [site.told(id)[0][1] for id in ids] == ["running", "waiting", "running"]
    site.finish_all(ids[2])
    site.tick()
    assert site.told(ids[1]) == [(1, "running")]


def test_a_start_that_fails_leaves_neither_half(site: Site, monkeypatch) -> None:
    id = site.add()
    start = Prepared.start

    def breaks(self: Prepared, connection: object) -> str:
        start(self, connection)
        raise DatabaseUnavailable("the connection broke")

    monkeypatch.setattr(Prepared, "start", breaks)
    site.tick(2 * HOUR)
    assert site.told(id) == [(1, "waiting")]
    assert not site.datasets()
    monkeypatch.undo()
    site.tick(MINUTE)
    assert site.told(id) == [(1, "running")]
    assert len(site.datasets()) == 1


def test_it_waits_for_the_marker_beside_its_input(site: Site) -> None:
    id = site.add(wait_for="_SUCCESS", late_after="4h")
    site.tick(2 * HOUR)
    assert site.told(id) == [(1, "waiting")]
    site.file("2026-02-28/_SUCCESS")
    site.tick(timedelta(seconds=starting.LOOK_EVERY - 1))
    assert site.told(id) == [(1, "waiting")], "it is not looked for at every tick"
    site.tick(timedelta(seconds=1))
    assert site.told(id) == [(1, "running")]


def test_it_waits_for_a_number_of_files_and_is_late_then(site: Site) -> None:
    id = site.add(wait_for=2, late_after="4h")
    site.tick(2 * HOUR)
    site.tick(4 * HOUR - MINUTE)
    assert site.told(id) == [(1, "waiting")]
    site.tick(MINUTE)
    assert site.told(id) == [(1, "late")]
    assert site.inbox.subjects == ["[headrace] nightly-1 of 2026-03-01 02:00 UTC: late"]
    site.tick(DAY)
    site.file("2026-03-01/b.jsonl")
    site.tick(MINUTE)
    assert site.told(id)[1:] == [(2, "running")]


@pytest.mark.parametrize(
    ("empty", "state", "told"), [("fail", "failed", 1), ("skip", "skipped", 0)]
)
def test_no_input_at_all_is_what_the_schedule_says(
    site: Site, empty: str, state: str, told: int
) -> None:
    id = site.add(empty=empty, input=f"{site.folder}/nowhere/{{date}}/*.jsonl")
    site.tick(2 * HOUR)
    assert site.told(id) == [(1, state)]
    assert len(site.inbox.subjects) == told


def test_a_model_that_is_not_there_fails_the_run(site: Site) -> None:
    site.runs.refused["m"] = ModelNotFound("m")
    id = site.add()
    site.tick(2 * HOUR)
    assert site.told(id) == [(1, "failed")]
    assert site.history(id)[0].error.code == "model_not_found"
    assert len(site.inbox.subjects) == 1


def test_a_store_that_does_not_answer_fails_nothing(site: Site) -> None:
    site.runs.refused["m"] = StoreUnavailable("no answer")
    id = site.add()
    site.tick(2 * HOUR)
    site.runs.refused.clear()
    site.tick(MINUTE)
    assert site.told(id) == [(1, "running")]


def test_what_failed_is_run_again_as_often_as_was_asked_for(site: Site) -> None:
    id = site.add(retries=1, retry_after="10min")
    site.tick(2 * HOUR)
    site.finish(site.history(id)[0], "partial", failed=3)
    site.tick()
    site.tick(9 * MINUTE)
    assert site.told(id) == [(1, "waiting")]
    site.tick(MINUTE)
    (run,) = site.history(id)
    assert (run.state, run.attempt) == (RunState.RUNNING, 1)
    assert not site.messages(), "not before it is given up"
    site.finish(run, "partial", failed=1)
    site.tick()
    assert site.told(id) == [(1, "partial")]
    assert len(site.messages()) == 1
    assert len(site.datasets()) == 1


@pytest.mark.parametrize(("failed", "told"), [(1, 0), (2, 1)])
def test_partial_is_told_above_the_bound(site: Site, failed: int, told: int) -> None:
    id = site.add(partial=0.1)
    site.tick(2 * HOUR)
    site.finish(site.history(id)[0], "partial", failed=failed)
    site.tick()
    assert site.told(id) == [(1, "partial")]
    assert len(site.inbox.subjects) == told


def test_a_run_that_takes_far_longer_than_those_before_is_told_once(site: Site) -> None:
    id = site.add(slow=2.0)
    site.tick(2 * HOUR)
    for _ in range(3):
        site.now += 10 * MINUTE
        site.finish_all(id)
        site.tick()
        site.tick(DAY - 10 * MINUTE)
    site.tick(19 * MINUTE)
    assert not site.messages()
    for _ in range(3):
        site.tick(2 * MINUTE)
    assert [subject.rsplit(" ", 1)[-1] for subject in site.messages()] == ["slow"]


def test_done_by_is_the_deadline_of_its_dataset_but_not_of_what_is_filled_in(site: Site) -> None:
    id = site.add(done_by="06:00", catch_up="all", at_a_time=5)
    site.tick(2 * HOUR)
    site.tick(2 * DAY)
    first, *others = site.history(id)
    assert first.deadline == datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert [run.deadline for run in others] == [None, datetime(2026, 3, 3, 6, tzinfo=UTC)]
    site.finish(first, "expired")
    site.tick()
    assert site.told(id)[0] == (1, "expired")
    assert len(site.messages()) == 1


def test_a_dataset_that_was_deleted_fails_its_run(site: Site) -> None:
    id = site.add()
    site.tick(2 * HOUR)
    (run,) = site.history(id)
    site.runs.look = lambda ids: {}  # type: ignore[method-assign]
    site.tick()
    assert site.history(id)[0].error.code == "no_dataset"
    assert run.dataset is not None


def test_messages_are_tried_again_and_sent_once(site: Site) -> None:
    site.add(input=f"{site.folder}/nowhere/{{date}}")
    site.inbox.failures = 2
    site.tick(2 * HOUR)
    site.tick(59 * timedelta(seconds=1))
    site.tick(timedelta(seconds=1))
    assert not site.inbox.subjects
    site.tick(2 * MINUTE)
    site.tick(HOUR)
    assert len(site.inbox.subjects) == 1


def test_two_that_send_at_once_send_each_message_once(site: Site) -> None:
    for name in range(6):
        site.add(input=f"{site.folder}/nowhere/{{date}}", output=f"{site.folder}/{name}/{{date}}")
    site.now += 2 * HOUR
    beats = [threading.Thread(target=site.ticker().tick) for _ in range(4)]
    for thread in beats:
        thread.start()
    for thread in beats:
        thread.join()
    site.tick()
    assert len(site.inbox.subjects) == len(set(site.inbox.subjects)) == 6


def test_a_report_lies_beside_the_results_and_the_pointer_says_which_hold(site: Site) -> None:
    id = site.add()
    site.tick(2 * HOUR)
    (run,) = site.history(id)
    site.finish(run, "partial", failed=2)
    site.tick()
    folder = Path(run.folder)
    assert '"bad_row": 2' in (folder / "_report.json").read_text()
    assert "<svg" in (folder / "_report.html").read_text()
    assert (folder.parent / "latest").read_text() == "run-1\n"
    with site.database.read() as connection:
        assert not schedule_runs.unclosed(connection, 10)


def test_a_report_that_could_not_be_written_is_written_later(site: Site, monkeypatch) -> None:
    id = site.add()
    site.tick(2 * HOUR)
    site.finish_all(id)

    def fails(*_: object) -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr("headrace.schedules.closing.place", fails)
    site.tick()
    assert site.told(id) == [(1, "succeeded")], "the run has ended all the same"
    monkeypatch.undo()
    site.tick()
    assert (Path(site.history(id)[0].folder) / "_report.json").exists()
