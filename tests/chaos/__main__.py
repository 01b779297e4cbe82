"""``make chaos``: run the scenarios, say what came of them, write ``build/chaos.json``."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from headrace.stack.interrupts import Interrupts
from tests.chaos.guards import GUARDS
from tests.chaos.run import Report, run
from tests.chaos.scenarios import BOTH, SCENARIOS, Scenario
from tests.chaos.servers import Servers

_BUILD = Path("build")
_LINE_SECONDS = 10.0
_SCENARIO_SECONDS = 600


@click.command()
@click.option("--only", multiple=True, help="A scenario, or the beginning of its name; repeatable.")
@click.option("--broker", type=click.Choice(BOTH), help="Default: both.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--jobs", type=int, help="At least so many per scenario, not its own number.")
@click.option("--without", type=click.Choice(list(GUARDS)), help="Take a guard out of the workers.")
@click.option("--list", "listing", is_flag=True, help="Say which scenarios there are.")
def main(
    only: tuple[str, ...],
    broker: str | None,
    seed: int,
    jobs: int | None,
    without: str | None,
    listing: bool,
) -> None:
    """Break things on purpose, and see that no job is lost, doubled or wrong."""
    chosen = [s for s in SCENARIOS if not only or s.name.startswith(only)]
    if not chosen:
        raise click.UsageError(f"no scenario is called {' or '.join(only)}; see --list")
    if listing:
        for scenario in chosen:
            print(f"{scenario.name:24} {scenario.about}")
        return
    folder = _BUILD.absolute() / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    # Not what lies around in the folder of whoever runs this.
    (folder / "headrace.toml").touch()
    os.environ["HEADRACE_CONFIG"] = str(folder / "headrace.toml")
    logging.basicConfig(filename=folder / "producers.log", level=logging.WARNING)
    with Interrupts(), ExitStack() as stack:
        servers = Servers(folder, stack)
        reports = [
            _one(scenario, name, servers, folder, seed=seed, jobs=jobs, without=without)
            for scenario in chosen
            for name in scenario.brokers
            if broker in (None, name)
        ]
    path = _BUILD / "chaos.json"
    path.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    bad = sum(not report.good for report in reports)
    print(f"{path}: {len(reports)} scenarios, {bad} of them bad")
    sys.exit(1 if bad else 0)


def _one(scenario: Scenario, broker: str, servers: Servers, folder: Path, **how: Any) -> Report:
    title = f"{scenario.name:24} {broker:9}"
    tell = _Teller(title)
    tell("starts")
    traces = folder / f"{scenario.name}-{broker}"
    started = time.monotonic()
    try:
        with _limit(_SCENARIO_SECONDS):
            report = run(scenario, servers, traces, broker=broker, tell=tell, **how)
    except Exception as error:  # the other scenarios still have their say
        logging.exception("%s came to no verdict", scenario.name)
        servers.mend()
        report = Report(
            name=scenario.name,
            broker=broker,
            database=scenario.database,
            store=scenario.store,
            seed=how["seed"],
            jobs=0,
            rows=0,
            kills=0,
            lost=0,
            duplicated=0,
            wrong=0,
            late=1,
            seconds=round(time.monotonic() - started, 1),
            complaints=[f"no verdict: {error!r}"],
        )
    tell.last(
        f"{report.jobs:6} jobs {report.rows:5} rows {report.kills:3} kills {report.lost:3} lost"
        f" {report.duplicated:3} duplicated {report.wrong:3} wrong {report.late:3} late"
        f" {report.seconds:6.1f} s"
    )
    if report.good:
        shutil.rmtree(traces)
    for complaint in report.complaints:
        print(f"    {complaint}")
    return report


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError inside the block when it takes longer."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"a scenario took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Teller:
    """A line that changes on a terminal; elsewhere a line every few seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._next = 0.0

    def __call__(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{self._title} {text}", end="", flush=True)
        elif time.monotonic() > self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            print(f"{self._title} {text}", flush=True)

    def last(self, text: str) -> None:
        """The line that stays."""
        start = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{start}{self._title} {text}", flush=True)


if __name__ == "__main__":
    main(prog_name="make chaos ARGS=")
