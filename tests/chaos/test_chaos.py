"""As much of ``make chaos`` as the test suite has time for."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.judge import FAILS_WITH
from tests.chaos.load import BULK
from tests.chaos.records import GOOD, submissions
from tests.chaos.run import run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.servers import Servers

SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}
POISON_SEED = 2131
"""With one early record of each kind that kills, and few more of them, for each takes seconds."""
SHORT = [
    ("kill-at-each-line", "redis", 1),
    ("pause-workers-sqlite", "redis", 1),
    ("poison", "rabbitmq", POISON_SEED),
    ("wipe-broker", "rabbitmq", 1),
    ("cut-connections", "redis", 1),
    ("datasets-troubled", "redis", 1),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("servers"), stack)


@pytest.mark.parametrize(("name", "broker", "seed"), SHORT)
def test_nothing_is_lost_doubled_or_wrong(
    servers: Servers, tmp_path: Path, name: str, broker: str, seed: int
) -> None:
    report = run(SCENARIO[name], servers, tmp_path / "rig", broker=broker, seed=seed, short=True)
    assert report.good, "\n".join(report.complaints)


def test_each_kind_of_poison_is_in_what_is_submitted_first() -> None:
    first = next(submissions(POISON_SEED, 0, BULK, SCENARIO["poison"].poison))
    assert {record.op for record in first.records} == {GOOD, *FAILS_WITH}
    assert not first.cancel
