"""As much of ``make chaos`` as the test suite has time for."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.servers import Servers

SHORT = [
    ("kill-at-each-line", "redis"),
    ("pause-workers-sqlite", "redis"),
    ("poison", "rabbitmq"),
    ("wipe-broker", "rabbitmq"),
    ("cut-connections", "redis"),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("servers"), stack)


@pytest.mark.parametrize(("name", "broker"), SHORT)
def test_nothing_is_lost_doubled_or_wrong(
    servers: Servers, tmp_path: Path, name: str, broker: str
) -> None:
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    report = run(scenario, servers, tmp_path / "rig", broker=broker, seed=1, short=True)
    assert report.good, "\n".join(report.complaints)
