"""Who waits for a few jobs hears of their end, where the database can tell; else it asks."""

import threading
import time
from collections.abc import Iterator

import pytest

from headrace.db.engine import Database
from headrace.job import JobId
from headrace.news import FEW, News, tell
from tests.conformance.job_table import JobTable, failure, new_id, new_pack, success

LONG, SHORT = 20.0, 0.05


@pytest.fixture
def news(table: JobTable) -> Iterator[News]:
    news = News(table.database)
    yield news
    news.close()


def announce(database: Database, ids: list[JobId]) -> None:
    with database.single() as connection:
        tell(connection, ids)


def seconds_waited(news: News, ids: list[JobId], seconds: float) -> float:
    started = time.monotonic()
    news.wait(ids, seconds)
    return time.monotonic() - started


def hears(
    table: JobTable, news: News, ids: list[JobId], told: list[JobId], within: float = LONG
) -> bool:
    """Whether a wait for `ids` ends early when `told` are announced, again and again."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(SHORT):
            announce(table.database, told)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        return seconds_waited(news, ids, within) < within
    finally:
        over.set()
        thread.join()


class TestOnPostgresql:
    @pytest.fixture(autouse=True)
    def _only_there(self, table: JobTable) -> None:
        if table.database.engine.dialect.name != "postgresql":
            pytest.skip("SQLite tells nobody")

    def test_one_of_those_waited_for_ends_the_wait(self, table: JobTable, news: News) -> None:
        mine, other = new_id(), new_id()
        assert hears(table, news, [other, mine], [mine])

    def test_small_results_come_along(self, table: JobTable, news: News) -> None:
        worker = table.worker()
        table.queue(3)
        small, large, failed = table.claim(worker)
        pack = new_pack(2)
        table.stage(worker, [small.id, large.id], pack)
        outcomes = [success(small, pack, b"\0=x"), success(large, pack, b"x" * 3000)]
        table.finish(worker, [*outcomes, failure(failed)], [pack.id])
        ids = [small.id, large.id, failed.id]
        assert hears(table, news, [small.id], ids)
        announce(table.database, ids)
        heard: dict[JobId, bytes] = {}
        while not heard:
            heard = news.wait(ids, LONG)
        assert heard == {small.id: b"\0=x"}

    def test_a_notice_is_as_long_as_it_may_be(self, table: JobTable, news: News) -> None:
        worker = table.worker()
        table.queue(FEW)
        units = table.claim(worker)
        pack = new_pack(FEW)
        table.stage(worker, [unit.id for unit in units], pack)
        largest = [success(unit, pack, b"x" * 226) for unit in units]
        table.finish(worker, largest, [pack.id])
        ids = [unit.id for unit in units]
        assert hears(table, news, ids, ids)
        announce(table.database, ids)
        assert len(news.wait(ids, LONG)) == FEW

    def test_what_has_not_ended_has_no_result(self, table: JobTable, news: News) -> None:
        ids = table.queue()
        assert hears(table, news, ids, ids)
        announce(table.database, ids)
        assert news.wait(ids, LONG) == {}

    def test_others_do_not(self, table: JobTable, news: News) -> None:
        assert not hears(table, news, [new_id()], [new_id()], within=1.0)

    def test_it_counts_if_it_came_just_before_the_wait(self, table: JobTable, news: News) -> None:
        first, second = new_id(), new_id()
        assert hears(table, news, [first], [first, second])
        assert seconds_waited(news, [second], LONG) < LONG / 2
        assert seconds_waited(news, [second], SHORT) >= SHORT  # and only once

    def test_many_are_not_listened_for(self, table: JobTable, news: News) -> None:
        ids = [new_id() for _ in range(FEW + 1)]
        assert not hears(table, news, ids, ids[:1], within=1.0)

    def test_many_are_not_told(self, table: JobTable, news: News) -> None:
        ids = [new_id() for _ in range(FEW + 1)]
        assert not hears(table, news, ids[:1], ids, within=1.0)

    def test_a_connection_that_was_cut_is_made_again(
        self, table: JobTable, news: News, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.db.listen._RETRY_SECONDS", SHORT)
        id = new_id()
        assert hears(table, news, [id], [id])
        with table.database.write() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
            )
        assert hears(table, news, [id], [id])


def test_without_news_the_time_passes(table: JobTable, news: News) -> None:
    assert seconds_waited(news, [new_id()], SHORT) >= SHORT
