"""The scenarios, one to a line: what is broken, under which load, on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos import bells, injections
from tests.chaos.load import Load
from tests.chaos.rig import Rig

BOTH = ("redis", "rabbitmq")
_LONE = ("redis",)
"""One broker will do where the matter is another."""


@dataclass(frozen=True)
class Scenario:
    """inject: breaks things, and returns when all is mended again but for dead workers.

    workers: there from the start. jobs: at least so many. pace: seconds that every batch
    takes; time_limit: after which it counts as hung. poison: one record in how many, by what it
    does. bell: stands between producers and broker. settings: of everybody.
    rows: in datasets, at least so many, under a light load of jobs; 0: no datasets.
    """

    name: str
    inject: Callable[[Rig, Load], None]
    brokers: tuple[str, ...] = BOTH
    database: str = "postgresql"
    store: str = "local"
    workers: int = 3
    jobs: int = 3000
    pace: float = 0.06
    time_limit: float = 10.0
    poison: Mapping[str, int] = field(default_factory=dict)
    bell: bells.Astray | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    rows: int = 0

    @property
    def about(self) -> str:
        """In a line."""
        return (self.inject.__doc__ or "").split("\n")[0]


_DATASETS = {"brokers": _LONE, "jobs": 300, "rows": 3000}

SCENARIOS = (
    Scenario("kill-workers", injections.kill_workers),
    Scenario("kill-workers-sqlite", injections.kill_workers, _LONE, database="sqlite"),
    Scenario("kill-workers-s3", injections.kill_workers, _LONE, store="s3", jobs=1500),
    # These kills are aimed, and a suspect runs alone: they may hit a good job thrice. That random
    # ones do not is for kill-workers to show.
    Scenario("kill-at-each-line", injections.kill_at_each_line, settings={"quarantine_after": 30}),
    Scenario("pause-workers", injections.pause_workers),
    Scenario("pause-workers-sqlite", injections.pause_workers, _LONE, database="sqlite"),
    Scenario("sweep-packs", injections.sweep_packs),
    Scenario("many-sweepers", injections.many_sweepers, _LONE),
    Scenario("clocks-off", injections.set_clocks_off, workers=0),
    Scenario("wipe-broker", injections.wipe_broker, settings={"poll": 8.0}),
    Scenario("restart-broker", injections.restart_broker, settings={"poll": 8.0}),
    Scenario("tickets-twice", injections.nothing, bell=bells.Doubling),
    Scenario("tickets-late", injections.nothing, bell=bells.Late),
    Scenario("tickets-never", injections.nothing, bell=bells.Silent),
    Scenario("restart-database", injections.restart_database),
    Scenario("lose-database", injections.lose_database),
    Scenario("cut-connections", injections.cut_connections),
    Scenario("cut-network", injections.cut_network, store="s3", workers=0, jobs=1500),
    Scenario("hold-network", injections.hold_network, store="s3", workers=0, jobs=1500),
    Scenario("break-s3", injections.break_s3, store="s3", workers=0, jobs=1500),
    Scenario(
        "poison",
        injections.nothing,
        poison={"raise": 40, "crash": 400, "hang": 600, "swell": 800},
        jobs=1500,
        time_limit=2.0,
        # No supervisor dies here: a long lease, that none is taken for dead on a busy machine.
        settings={"quarantine_after": 2, "worker_memory": 400 << 20, "lease": 15.0},
    ),
    Scenario("datasets-kill-workers", injections.kill_workers, **_DATASETS),
    Scenario(
        "datasets-kill-workers-sqlite", injections.kill_workers, database="sqlite", **_DATASETS
    ),
    Scenario("datasets-kill-workers-s3", injections.kill_workers, store="s3", **_DATASETS),
    Scenario(
        "datasets-kill-at-each-line",
        injections.kill_at_each_line_of_datasets,
        **_DATASETS,
        settings={"quarantine_after": 30},
    ),
    Scenario("datasets-pause-workers", injections.pause_at_datasets, **_DATASETS),
    Scenario("datasets-pause-workers-s3", injections.pause_at_datasets, store="s3", **_DATASETS),
    Scenario("datasets-wipe-broker", injections.wipe_broker, **_DATASETS | {"brokers": BOTH}),
    Scenario("datasets-restart-database", injections.restart_database, **_DATASETS),
    Scenario("datasets-lose-database", injections.lose_database, **_DATASETS),
    Scenario("datasets-cut-network", injections.cut_network, store="s3", workers=0, **_DATASETS),
    Scenario("datasets-break-s3", injections.break_s3, store="s3", workers=0, **_DATASETS),
    Scenario("datasets-troubled", injections.break_datasets, store="s3", workers=0, **_DATASETS),
    Scenario(
        "datasets-poison",
        injections.nothing,
        **_DATASETS,
        poison={"raise": 40, "crash": 400, "hang": 600},
        time_limit=2.0,
        settings={"quarantine_after": 2, "lease": 15.0},
    ),
)
