"""No statement that runs often reads the jobs from one end to the other."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from headrace.db import deletion, due, health, jobs, sweeping, views, work, workers
from headrace.job import JobState, Priority, WorkerId
from tests.conformance.job_table import M1, JobTable, new_id

LINE = due.Line(M1, "default", Priority.NORMAL, 64, 1)
ID = new_id()
CALLS: dict[str, Callable[[sa.Connection], object]] = {
    "claim": lambda c: work.claim(c, WorkerId(ID), "default"),
    "expire": lambda c: sweeping.expire(c, 10),
    "old": lambda c: deletion.old(c, ended_before=2e9, after=None, limit=10),
    "remove": lambda c: deletion.remove(c, [ID]),
    "lines to ring for": due.lines,
    "jobs to ring for": lambda c: due.ids(c, LINE, 0.0, limit=10),
    "held by nobody": health.held_by_nobody,
    "fetch": lambda c: views.fetch(c, [ID]),
    "ended": lambda c: views.ended(c, [ID]),
    "results": lambda c: views.results(c, [ID]),
    "cancel": lambda c: jobs.cancel(c, [ID]),
    "replay": lambda c: jobs.replay(c, [ID]),
    "gone": lambda c: work.gone(c, WorkerId(ID), [ID]),
    "backlog": lambda c: views.backlog(c, "default", 9),
    "dead letters": lambda c: views.page(c, tenant="", states=[JobState.FAILED]),
    "dead letters of a code": lambda c: views.page(
        c, tenant="", states=[JobState.FAILED], code="model_error"
    ),
}


def plans(table: JobTable, call: Callable[[sa.Connection], object]) -> str:
    """What the database would do for each statement of the call, were whole tables dear."""
    said: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, given: Any, *_: object) -> None:
        said.append((statement, given))

    postgres = table.database.engine.dialect.name == "postgresql"
    sa.event.listen(table.database.engine, "before_cursor_execute", note)
    with table.database.write() as connection:
        call(connection)
    sa.event.remove(table.database.engine, "before_cursor_execute", note)
    lines = []
    with table.database.write() as connection:
        if postgres:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, given in said:
            if re.match(r"SELECT|WITH|UPDATE|DELETE" + "|INSERT" * postgres, statement):
                explain = "EXPLAIN" if postgres else "EXPLAIN QUERY PLAN"
                found = connection.exec_driver_sql(f"{explain} {statement}", given)
                lines += [str(row[-1]) for row in found]
    return "\n".join(lines)


@pytest.mark.parametrize("call", CALLS)
def test_an_index_serves(table: JobTable, call: str) -> None:
    plan = plans(table, CALLS[call])
    assert "jobs" in plan
    assert not re.search(r"Seq Scan on jobs|SCAN jobs(?! USING INDEX jobs_running)", plan), plan
    if "dead letters" in call:
        assert "jobs_failed" in plan


def test_only_a_tenants_last_turn_is_looked_up_in_the_index_of_turns(table: JobTable) -> None:
    """Without statistics, PostgreSQL takes it for as good as those that are in order."""
    with table.database.write() as connection:
        for index in ("jobs_due", "jobs_due_by_model"):
            connection.execute(sa.text(f"DROP INDEX {index}"))
    assert "jobs_turn" not in plans(table, CALLS["claim"])
    row = jobs.NewJob(new_id(), "t", "default", M1, Priority.NORMAL, b"")
    assert plans(table, lambda c: jobs.insert(c, [row])).count("jobs_turn") == 1


def test_freeing_a_dead_worker_finds_its_jobs_by_index(table: JobTable) -> None:
    worker = table.worker()
    table.queue(3)
    table.claim(worker)
    table.lease_in(worker, -1)
    plan = plans(table, lambda c: workers.bury(c, worker, quarantine_after=3))
    assert "jobs_running" in plan
    assert not re.search(r"Seq Scan on jobs|SCAN jobs(?! USING INDEX jobs_running)", plan), plan


@pytest.mark.parametrize(("call", "condition"), [("expire", "deadline"), ("claim", "due_at")])
def test_what_is_not_due_is_passed_over_in_the_index(
    table: JobTable, call: str, condition: str
) -> None:
    """However many wait for their time, their rows are not looked at."""
    if table.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite does not tell which conditions it judges by the index")
    found = re.findall(r"Index Cond: (.*)", plans(table, CALLS[call]))
    assert any(f"{condition} <=" in each for each in found), found
