"""The report of a run: what came out, what failed and why, how long it took against those before.

As JSON for programs, as a page for people. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from statistics import median
from string import Template
from typing import Any

from headrace.schedule import Run, RunState
from headrace.schedules.cases import Case

Report = dict[str, Any]
_GOOD = {RunState.SUCCEEDED.value, RunState.RUNNING.value}
_WIDTH, _HEIGHT, _GAP = 640, 160, 4
"""Of the plot, in pixels."""


def make(case: Case, history: Sequence[Run], errors: Mapping[str, int]) -> Report:
    """history: runs of the schedule with a dataset, newest first."""
    run, zone = case.run, case.spec.zone
    seconds = run.seconds
    return {
        "schedule": case.name,
        "date": run.date.astimezone(zone).isoformat(),
        "run": run.number,
        "trigger": run.trigger.value,
        "state": run.state.value,
        "error": run.error and {"code": run.error.code, "message": run.error.message},
        "model": case.spec.model,
        "input": run.input,
        "output": run.folder,
        "dataset": run.dataset,
        "records": {"total": run.total, "succeeded": run.succeeded, "failed": run.failed},
        "errors": dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
        "retries": run.attempt,
        "started": _iso(run.started_at),
        "finished": _iso(run.finished_at),
        "seconds": seconds,
        "records_per_second": run.total / seconds if seconds else None,
        "history": [
            {
                "date": other.date.astimezone(zone).isoformat(),
                "run": other.number,
                "state": other.state.value,
                "seconds": other.seconds,
                "total": other.total,
                "failed": other.failed,
            }
            for other in reversed(history)
            if other.seconds is not None
        ],
    }


def as_json(report: Report) -> str:
    """For programs."""
    return json.dumps(report, indent=2) + "\n"


def as_html(report: Report) -> str:
    """For people: one file, without anything from elsewhere."""
    records = report["records"]
    facts = [
        ("Records", f"{records['total']:,}"),
        ("Succeeded", f"{records['succeeded']:,}"),
        ("Failed", f"{records['failed']:,}"),
        ("Took", _duration(report["seconds"])),
        ("Records per second", _rate(report["records_per_second"])),
        ("Retries", str(report["retries"])),
    ]
    details = [
        ("Model", report["model"]),
        ("Input", report["input"]),
        ("Output", report["output"]),
        ("Dataset", report["dataset"]),
        ("Started", report["started"]),
        ("Finished", report["finished"]),
        ("Run because it was", report["trigger"]),
    ]
    error = report["error"]
    return _PAGE.substitute(
        title=escape(f"{report['schedule']} of {_day(report['date'])}"),
        run=f", run {report['run']}" if report["run"] > 1 else "",
        state=escape(report["state"]),
        good="good" if report["state"] in _GOOD else "bad",
        why=f"<p>{escape(error['message'])}</p>" if error else "",
        facts="".join(f"<div><b>{escape(v)}</b><span>{k}</span></div>" for k, v in facts),
        errors=_table(("Error", "Records"), [(k, f"{v:,}") for k, v in report["errors"].items()]),
        plot=_plot(report),
        details=_table((), [(k, v or "") for k, v in details]),
    )


def _table(head: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return "<p>None.</p>"
    cells = "".join(f"<tr><td>{escape(a)}<td>{escape(str(b))}" for a, b in rows)
    return f"<table>{''.join(f'<th>{name}' for name in head)}{cells}</table>"


def _plot(report: Report) -> str:
    """A bar per run, as high as it took long, oldest first; this run's is dark."""
    bars = report["history"]
    if not bars:
        return "<p>No run has ended yet.</p>"
    longest = max(bar["seconds"] for bar in bars) or 1.0
    width = min(40.0, _WIDTH / len(bars))
    drawn = []
    for index, bar in enumerate(bars):
        height = max(2.0, _HEIGHT * bar["seconds"] / longest)
        this = bar["date"] == report["date"] and bar["run"] == report["run"]
        kind = ("this " if this else "") + ("good" if bar["state"] in _GOOD else "bad")
        told = f"{_day(bar['date'])}: {_duration(bar['seconds'])}, {bar['state']}"
        drawn.append(
            f'<rect class="{kind}" x="{index * width:.1f}" y="{_HEIGHT - height:.1f}" '
            f'width="{width - _GAP:.1f}" height="{height:.1f}"><title>{escape(told)}</title></rect>'
        )
    usual = median(bar["seconds"] for bar in bars)
    y = _HEIGHT - _HEIGHT * usual / longest
    return (
        f'<svg viewBox="0 -14 {_WIDTH + 150} {_HEIGHT + 36}" role="img" '
        f'aria-label="Durations of the last {len(bars)} runs">{"".join(drawn)}'
        f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_WIDTH + 6}" y="{y + 4:.1f}">median {_duration(usual)}</text>'
        f'<text x="0" y="{_HEIGHT + 18}">{escape(_day(bars[0]["date"]))}</text>'
        f'<text x="{len(bars) * width:.1f}" y="{_HEIGHT + 18}" text-anchor="end">'
        f"{escape(_day(bars[-1]['date'])) if len(bars) > 4 else ''}</text></svg>"
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _rate(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def _day(date: str) -> str:
    """A logical date as people say it: without the offset."""
    return datetime.fromisoformat(date).strftime("%Y-%m-%d %H:%M")


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(timespec="seconds")


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title: $state</title>
<style>
:root { color-scheme: light dark; --ink: light-dark(#1d2733, #e6e9ee);
  --soft: light-dark(#5b6776, #9aa6b4); --paper: light-dark(#fff, #14181d);
  --good: light-dark(#2f7d4f, #5fc18a); --bad: light-dark(#b3382c, #f0857a);
  --line: light-dark(#d9dee4, #333b45); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 46rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h1 em { font-style: normal; } em.good { color: var(--good); } em.bad { color: var(--bad); }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 1.7rem; margin: 1.5rem 0; }
.facts b { display: block; font-size: 1.3rem; font-weight: 600; }
.facts span, text, th { color: var(--soft); fill: var(--soft); font-size: .85rem; }
svg { width: 100%; } text { font-size: 12px; }
rect.good { fill: var(--good); opacity: .45; } rect.bad { fill: var(--bad); opacity: .6; }
rect.this { opacity: 1; } line { stroke: var(--soft); stroke-dasharray: 4 4; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 400; }
td, th { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; vertical-align: top; } td:first-child { min-width: 9rem; }
</style>
<h1>$title$run: <em class="$good">$state</em></h1>
$why
<div class="facts">$facts</div>
<h2>Errors by kind</h2>
$errors
<h2>Time taken by this and the runs before it</h2>
$plot
<h2>Details</h2>
$details
</html>
""")
