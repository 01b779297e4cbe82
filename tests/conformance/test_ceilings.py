"""Ceilings, remembered in the job table for workers on devices of the same kind."""

from headrace.db.engine import Database
from headrace.job import ModelKey
from headrace.runtimes.isolation import Overflow
from workers.ceilings import _PATIENCE, Ceilings

KEY, OTHER = ModelKey("m", 1), ModelKey("m", 2)


def worker(database: Database, device: str = "GPU of 80 GB") -> Ceilings:
    """One that has just claimed its first jobs of both versions."""
    ceilings = Ceilings(database, device)
    for key in (KEY, OTHER):
        ceilings.load(key)
    return ceilings


def overflow(ceilings: Ceilings, too_many: int, fits: int) -> None:
    ceilings.ran(KEY, fitted=fits, longest=1, most=64, overflow=Overflow(too_many, fits))
    ceilings.save()


def test_the_next_worker_on_such_a_device_starts_there(database: Database) -> None:
    first = worker(database)
    assert first.of(KEY) is None
    overflow(first, 32, 16)
    assert first.of(KEY) == worker(database).of(KEY) == 16
    assert worker(database, "cpu").of(KEY) is None
    assert worker(database).of(OTHER) is None
    overflow(first, 16, 8)
    assert worker(database).of(KEY) == 8


def test_a_ceiling_that_is_raised_is_written_and_one_that_is_gone_is_forgotten(
    database: Database,
) -> None:
    ceilings = worker(database)
    overflow(ceilings, 64, 40)
    for expected in (50, 62, None):
        for _ in range(_PATIENCE):
            now = ceilings.of(KEY)
            assert now is not None
            ceilings.ran(KEY, fitted=now - 1, longest=1, most=64, overflow=None)
            ceilings.ran(KEY, fitted=now, longest=1, most=64, overflow=None)
        ceilings.save()
        assert ceilings.of(KEY) == worker(database).of(KEY) == expected


def test_while_the_job_table_is_away_it_is_known_here_and_written_later(
    database: Database,
) -> None:
    url = database.engine.url
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    ceilings = Ceilings(away, "cpu")
    ceilings.load(KEY)
    overflow(ceilings, 32, 16)
    assert ceilings.of(KEY) == 16
    ceilings._database = database
    ceilings.save()
    assert worker(Database(url.render_as_string(hide_password=False)), "cpu").of(KEY) == 16
