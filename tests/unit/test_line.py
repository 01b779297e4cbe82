"""What waits for the store: when a batch goes alone, and when it waits for its mates."""

from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from headrace.db.units import NewPack
from headrace.job import PackId
from tests.unit.items import version
from workers.flow import Batch, Ran
from workers.line import Line


def ran(*, more: bool, seconds: float = 0.001) -> Ran:
    return Ran(Batch(version(), (), (NewPack(PackId("p"), "", "k", 64),)), (), seconds, more)


def test_a_quick_batch_waits_for_those_that_follow() -> None:
    line = Line()
    with ThreadPoolExecutor(1) as pool:
        line.put(ran(more=True), None)
        taken: Future[list[Ran]] = pool.submit(line.take)
        assert not wait([taken], 0.02).done
        line.put(ran(more=False), None)
        assert len(taken.result(5)) == 2


def test_a_line_that_is_full_waits_for_nobody() -> None:
    line = Line()
    for _ in range(4):
        line.put(ran(more=True), None)
    assert len(line.take()) == 4


@pytest.mark.parametrize("alone", [ran(more=False), ran(more=True, seconds=2.0)])
def test_a_batch_goes_alone_where_none_follows_or_none_soon(
    alone: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.line._GATHER_SECONDS", 4.0)
    line = Line()
    line.put(alone, None)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(line.take).result(2) == [alone]
