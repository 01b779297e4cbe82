"""The accept station when the answer to a claim is lost: no job stays with nobody."""

from __future__ import annotations

import threading

import pytest

from headrace import payload
from headrace.db import work
from headrace.errors import DatabaseUnavailable
from tests.conformance.job_table import JobTable
from tests.conformance.registered import PAIR, register
from workers.accept import Accept
from workers.ceilings import Ceilings
from workers.tickets import Tickets
from workers.waiting import Waiting


def test_a_claim_that_comes_to_the_database_late_is_undone(table: JobTable, monkeypatch) -> None:
    """Its connection broke on the way, and the worker has asked since and got nothing."""
    model = register(table.database, "pair", PAIR)
    worker = table.worker()
    waiting = Waiting()
    accept = Accept(
        database=table.database,
        store=None,
        worker=worker,
        pool="default",
        poll=0.0,
        tickets=Tickets(lambda calls: None),
        waiting=waiting,
        ceilings=Ceilings(table.database, "cpu"),
        unserved=list,
        expect=lambda ids: None,
        naming=threading.Lock(),
        to_store=lambda ran, seconds: pytest.fail("its input is right"),
        tick=lambda: None,
    )
    monkeypatch.setattr("workers.accept._RETRY_SECONDS", 0.0)
    claim = work.claim

    def broken(*what: object, **how: object) -> None:
        monkeypatch.setattr(work, "claim", claim)
        raise DatabaseUnavailable("the connection broke")

    monkeypatch.setattr(work, "claim", broken)
    assert accept.step()
    assert accept.step(), "it finds nothing due, and nothing to undo"
    record = payload.encode({"left": [1.0], "note": "late"})
    (id,) = table.queue(model=model, input=record)
    assert [unit.id for unit in table.claim(worker)] == [id]
    assert accept.step()
    assert [item.unit.id for item in waiting.close()] == [id]
    assert table.attempts([id]) == [1]
