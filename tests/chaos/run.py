"""One scenario from its start to its verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.datasets import Datasets
from tests.chaos.judge import Verdict, judge, unended, unfinished
from tests.chaos.judge_datasets import judge_datasets
from tests.chaos.load import Load
from tests.chaos.rig import BOOT_SECONDS, Late, Rig, rig
from tests.chaos.scenarios import Scenario
from tests.chaos.servers import Servers

_TELL_SECONDS = 0.5
_PRODUCERS_SECONDS = 60.0
_END_SECONDS = 90.0
_AT_ONCE = 1.5
_AHEAD_OF_DATASETS = 8

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What ``build/chaos.json`` says of a scenario.

    late: what did not come in time, though it may come yet. complaints: what was wrong, in words.
    """

    name: str
    broker: str
    database: str
    store: str
    seed: int
    jobs: int
    rows: int
    kills: int
    lost: int
    duplicated: int
    wrong: int
    late: int
    seconds: float
    complaints: list[str]

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.wrong or self.late)


def run(
    scenario: Scenario,
    servers: Servers,
    folder: Path,
    *,
    broker: str,
    seed: int,
    short: bool = False,
    without: str | None = None,
    jobs: int | None = None,
    tell: Tell = lambda text: None,
) -> Report:
    """short: as much as the test suite has time for. without: a guard to take out of the workers.
    jobs: at least so many, instead of the scenario's number. tell: takes a line now and then.
    """
    started = time.monotonic()
    with rig(
        servers,
        folder,
        seed,
        short=short,
        without=without,
        broker=broker,
        database=scenario.database,
        store=scenario.store,
        pace=scenario.pace,
        time_limit=scenario.time_limit,
        settings=scenario.settings,
    ) as field:
        load = Load(
            field,
            seed,
            jobs or (200 if short else scenario.jobs),
            scenario.poison,
            scenario.bell,
            ahead=_AHEAD_OF_DATASETS if scenario.rows else None,
        )
        rows = min(scenario.rows, 500) if short else scenario.rows
        files = Datasets(field, seed, rows, scenario.poison) if rows else None
        try:
            with _telling(tell, field, load):
                for step in (
                    partial(field.hire, scenario.workers),
                    partial(scenario.inject, field, load),
                    partial(load.finish, _PRODUCERS_SECONDS),
                    *([partial(files.finish, _PRODUCERS_SECONDS)] if files else []),
                    partial(_come_to_rest, field),
                    *([partial(_close, field, files)] if files else []),
                    partial(_answer_at_once, field, load),
                    partial(_drain, field),
                ):
                    _take(step, field, load)
        finally:
            load.abort()
            if files:
                files.abort()
        verdict = Verdict()
        if files:
            judge_datasets(field, files, verdict)
        judge(field, load, verdict)
    return Report(
        name=scenario.name,
        broker=broker,
        database=scenario.database,
        store=scenario.store,
        seed=seed,
        jobs=len(load.submitted),
        rows=files.rows if files else 0,
        kills=field.kills,
        lost=verdict.lost,
        duplicated=verdict.duplicated,
        wrong=verdict.wrong,
        late=len(field.late),
        seconds=round(time.monotonic() - started, 1),
        complaints=[*field.late, *verdict.complaints],
    )


def _take(step: Callable[[], object], rig: Rig, load: Load) -> None:
    """The next ones have their say, too, where this one waits in vain."""
    try:
        step()
    except Late as error:
        rig.late.append(f"late: {error}\n{load}\n{rig}")
        rig.servers.mend()


def _come_to_rest(rig: Rig) -> None:
    """All jobs end, stale tickets are drained, sweeps clean up."""
    rig.staff()
    rig.until("every job has ended", lambda: not unended(rig), _END_SECONDS)
    rig.until("nothing is unfinished", lambda: not unfinished(rig))


def _close(rig: Rig, files: Datasets) -> None:
    rig.until("every dataset is closed", lambda: not files.open())
    rig.until("nothing is unfinished", lambda: not unfinished(rig))


def _answer_at_once(rig: Rig, load: Load) -> None:
    """All is as before, and no ticket of a job that was found without it is left."""
    rig.until("lone jobs are done at once", lambda: load.latency() < _AT_ONCE)
    rig.until("nothing is unfinished", lambda: not unfinished(rig))


def _drain(rig: Rig) -> None:
    """All workers leave, in good order; one that only just starts would die of the signal."""
    pids = {worker.pid for worker in rig.workers}
    rig.until("all workers take work", lambda: rig.ready() >= pids, BOOT_SECONDS)
    rig.until("all workers listen", lambda: all(worker.listens() for worker in rig.workers))
    for worker in rig.workers:
        worker.drain()
    for worker in rig.workers:
        rig.until(f"{worker.name} has drained", lambda w=worker: w.exit_code is not None)
        if worker.exit_code:
            rig.problems.append(f"{worker.name} left with {worker.exit_code}")


@contextmanager
def _telling(tell: Tell, rig: Rig, load: Load) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_TELL_SECONDS):
            tell(f"{load.done} of {len(load.submitted)} jobs have ended, {rig.kills} kills")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
