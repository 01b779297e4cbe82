"""The report of a run: numbers for programs, and a page that no name can break out of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from headrace.dataset import DatasetId
from headrace.job import ErrorInfo
from headrace.schedule import Run, RunState, ScheduleId, Trigger
from headrace.schedules import report
from headrace.schedules.cases import Case
from headrace.schedules.spec import parse

SPEC = parse(
    {
        "cron": "0 2 * * *",
        "tz": "Europe/Berlin",
        "model": "digits",
        "input": "/in/{date-1d}/*.parquet",
        "output": "/out/{date-1d}",
    }
)
START = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)


def run(day: int, seconds: float, state: RunState = RunState.SUCCEEDED) -> Run:
    date = START + timedelta(days=day)
    return Run(
        ScheduleId("s"),
        date,
        1,
        1,
        Trigger.DUE,
        state,
        SPEC.input_at(date),
        SPEC.output_at(date),
        1,
        date,
        date,
        started_at=date,
        finished_at=date + timedelta(seconds=seconds),
        dataset=DatasetId("d"),
        total=1000,
        succeeded=990,
        failed=10,
    )


@pytest.fixture
def case() -> Case:
    last = run(9, 40.0, RunState.PARTIAL)
    why = ErrorInfo("records_failed", "<b>10</b> of 1,000 & more")
    return Case(replace(last, error=why), "", "nightly", SPEC)


def history(case: Case) -> list[Run]:
    """Newest first."""
    return [case.run, *(run(day, 10.0 + day) for day in reversed(range(9)))]


def test_programs_get_counts_errors_and_durations_against_those_before(case: Case) -> None:
    told = json.loads(report.as_json(report.make(case, history(case), {"a": 1, "b": 9})))
    assert told["date"] == "2026-03-10T02:00:00+01:00"
    assert told["records"] == {"total": 1000, "succeeded": 990, "failed": 10}
    assert list(told["errors"].items()) == [("b", 9), ("a", 1)]
    assert told["seconds"] == 40.0
    assert told["records_per_second"] == 25.0
    assert [each["seconds"] for each in told["history"]] == [*map(float, range(10, 19)), 40.0]


def test_people_get_a_page_with_a_bar_for_each_run(case: Case) -> None:
    page = report.as_html(report.make(case, history(case), {"<script>": 10}))
    assert "<script>" not in page
    assert "&lt;b&gt;10&lt;/b&gt; of 1,000 &amp; more" in page
    assert not re.search(r"(src|href)=", page), "nothing from elsewhere"
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    bars = ElementTree.fromstring(svg).findall("rect")
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert len(bars) == 10
    assert max(heights) == heights[-1]
    assert heights[0] == pytest.approx(heights[-1] / 4, abs=0.1)
    assert [bar.get("class") for bar in bars[-2:]] == ["good", "this bad"]
    assert "median 14.5 s" in svg


def test_the_first_run_of_all_has_a_page_too(case: Case) -> None:
    alone = Case(replace(case.run, finished_at=None, error=None), "", "nightly", SPEC)
    page = report.as_html(report.make(alone, [alone.run], {}))
    assert "No run has ended yet." in page
    assert "None." in page
