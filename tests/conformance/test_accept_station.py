"""The accept station: what it claims, and when, and what tickets are told of it."""

from __future__ import annotations

import threading

import pytest

from headrace import payload
from headrace.dataset import PLANS, SHARDS
from headrace.db import work
from headrace.errors import DatabaseUnavailable
from tests.conformance.dataset_table import DatasetTable
from tests.conformance.job_table import JobTable
from tests.conformance.registered import PAIR, register
from workers.accept import Accept
from workers.ceilings import Ceilings
from workers.tickets import Tickets
from workers.waiting import Waiting

RECORD = payload.encode({"left": [1.0], "note": "late"})


class Slot:
    """Takes one unit."""

    def __init__(self) -> None:
        self.units = []
        self.room = True

    def free(self) -> bool:
        return self.room

    def put(self, unit) -> None:
        self.units.append(unit.id)
        self.room = False


class Desk:
    """An accept station, and what surrounds it. poll: seconds."""

    def __init__(self, table: JobTable, poll: float) -> None:
        self.table = table
        self.model = register(table.database, "pair", PAIR)
        self.worker = table.worker()
        self.waiting = Waiting()
        self.answers: list[str] = []
        self.tickets = Tickets(lambda calls: [call() for call in calls])
        self.slots = {SHARDS: Slot(), PLANS: Slot()}
        self.unserved = []
        self.accept = Accept(
            database=table.database,
            store=None,
            worker=self.worker,
            pool="default",
            poll=poll,
            tickets=self.tickets,
            waiting=self.waiting,
            ceilings=Ceilings(table.database, "cpu"),
            unserved=lambda: self.unserved,
            expect=lambda ids: None,
            naming=threading.Lock(),
            to_store=lambda ran, seconds: pytest.fail("its input is right"),
            tick=lambda: None,
            slots=self.slots,
        )

    def ticket(self) -> None:
        self.tickets.hear(
            lambda pid, at: self.answers.append("accepted"),
            lambda answer: self.answers.append(answer[1]),
            [],
        )

    def waits(self) -> list[str]:
        return [item.unit.id for item in self.waiting.close()]


@pytest.fixture
def desk(table: JobTable, monkeypatch) -> Desk:
    """One that looks at once, and whenever it is told to, but not by itself again."""
    monkeypatch.setattr("workers.accept._RETRY_SECONDS", 0.0)
    return Desk(table, poll=3600.0)


@pytest.fixture
def sets(table: JobTable) -> DatasetTable:
    return DatasetTable(table)


def broken_once(monkeypatch, line: str) -> None:
    """The next claim from this line does not come through."""
    claim = work.claim

    def broken(*what: object, **how: object) -> object:
        if how.get("line", "") != line:
            return claim(*what, **how)
        monkeypatch.setattr(work, "claim", claim)
        raise DatabaseUnavailable("the connection broke")

    monkeypatch.setattr(work, "claim", broken)


def test_a_claim_that_comes_to_the_database_late_is_undone(table: JobTable, monkeypatch) -> None:
    """Its connection broke on the way, and the worker has asked since and got nothing."""
    monkeypatch.setattr("workers.accept._RETRY_SECONDS", 0.0)
    desk = Desk(table, poll=0.0)
    broken_once(monkeypatch, "")
    assert desk.accept.step()
    assert desk.accept.step(), "it finds nothing due, and nothing to undo"
    (id,) = table.queue(model=desk.model, input=RECORD)
    assert [unit.id for unit in table.claim(desk.worker)] == [id]
    assert desk.accept.step()
    assert desk.waits() == [id]
    assert table.attempts([id]) == [1]


def test_no_pack_is_left_of_a_claim_whose_answer_got_lost(table: JobTable, monkeypatch) -> None:
    monkeypatch.setattr("workers.accept._RETRY_SECONDS", 0.0)
    desk = Desk(table, poll=0.0)
    (id,) = table.queue(model=desk.model, input=RECORD)
    claim = work.claim

    def answer_lost(*what: object, **how: object) -> None:
        monkeypatch.setattr(work, "claim", claim)
        with table.database.write() as connection:
            assert claim(connection, *what[1:], **how)
        raise DatabaseUnavailable("the connection broke")

    monkeypatch.setattr(work, "claim", answer_lost)
    # SQLite has one writer, whom this would wait for.
    monkeypatch.setattr(table.database, "single", table.database.read)
    assert desk.accept.step()
    monkeypatch.undo()
    assert table.pack_states() == ["writing"]
    assert desk.accept.step()
    assert table.pack_states() == ["writing"], "of the claim that was answered"
    assert desk.waits() == [id]


def test_a_unit_of_a_dataset_is_claimed_late_as_well(table, sets, monkeypatch) -> None:
    monkeypatch.setattr("workers.accept._RETRY_SECONDS", 0.0)
    desk = Desk(table, poll=0.0)
    broken_once(monkeypatch, PLANS)
    assert desk.accept.step()
    sets.insert()
    fence = sets.claim(PLANS, desk.worker)
    assert desk.accept.step()
    assert desk.slots[PLANS].units == [fence.job]
    assert table.attempts([fence.job]) == [1]
    sets.insert("/other")
    assert desk.accept.step()
    assert table.states([fence.job]) == ["running"], "what is in its slot is not given back"


def test_a_ticket_is_answered_with_the_unit_it_led_to(desk, sets) -> None:
    desk.accept.step()
    sets.planned(3)
    sets.insert("/other")
    for _ in range(3):
        desk.ticket()
    assert desk.accept.step()
    assert len(desk.slots[SHARDS].units) == 1
    (plan,) = desk.slots[PLANS].units
    assert desk.answers == ["accepted"] * 2
    desk.tickets.settled([plan], 0.0)
    assert desk.answers[2:] == ["1 jobs, 0.0 ms on the device"]
    assert desk.accept.step()
    assert desk.answers[3:] == ["accepted", "nothing due"]


def test_slots_are_filled_beside_single_jobs(desk, sets, table) -> None:
    sets.planned(3, 4)
    (id,) = table.queue(model=desk.model, input=RECORD)
    assert desk.accept.step()
    assert desk.waits() == [id]
    assert len(desk.slots[SHARDS].units) == 1, "one at a time"


def test_a_slot_that_became_free_is_filled_at_once(desk, sets) -> None:
    sets.planned(3, 4)
    desk.accept.step()
    assert len(desk.slots[SHARDS].units) == 1
    desk.slots[SHARDS].room = True
    desk.accept.slot_is_free()
    while len(desk.slots[SHARDS].units) == 1:
        assert desk.accept.step()
    assert len(set(desk.slots[SHARDS].units)) == 2


def test_single_jobs_without_a_ticket_for_others_cost_no_look(desk, table, monkeypatch) -> None:
    asked, claim = [], work.claim

    def asking(*what: object, **how: object) -> object:
        asked.append(how.get("line", ""))
        return claim(*what, **how)

    monkeypatch.setattr(work, "claim", asking)
    table.queue(130, model=desk.model, input=RECORD)
    for _ in range(3):
        monkeypatch.setattr(desk.waiting, "wait_for_room", lambda timeout: True)
        assert desk.accept.step()
    assert asked == ["", SHARDS, PLANS, "", ""]


def test_a_version_that_is_not_served_is_planned_but_not_run(desk, sets) -> None:
    id = sets.planned(3)
    sets.insert("/other")
    desk.unserved = [sets.get(id).model]
    desk.accept.step()
    assert (len(desk.slots[SHARDS].units), len(desk.slots[PLANS].units)) == (0, 1)


def busy_with_quick_batches(desk: Desk) -> None:
    """The device is at a batch of a model whose batches take a millisecond."""
    for _ in range(2):
        desk.accept.step()
        assert desk.waiting.take()
        desk.waiting.started()
        if desk.waiting.several(9) is None:
            desk.waiting.ended(0.001)


def test_quick_batches_are_claimed_together_and_taken_in_one_by_one(table, monkeypatch) -> None:
    desk = Desk(table, poll=3600.0)
    ids = table.queue(6 * 64, model=desk.model, input=RECORD)
    busy_with_quick_batches(desk)
    for _ in ids[::64]:
        desk.ticket()
    claims: list[int] = []
    claim = work.claim
    monkeypatch.setattr(work, "claim", lambda *a, **k: claims.append(1) or claim(*a, **k))
    monkeypatch.setattr(desk.waiting, "wait_for_room", lambda timeout: True)
    monkeypatch.setattr(desk.accept, "_fill_slots", lambda on_ticket: False)
    for taken_in in range(4):
        assert desk.accept.step()
        assert table.states(ids) == ["running"] * len(ids)
        assert desk.answers == ["accepted"] * (taken_in + 1)
    assert claims == [1]
    assert len(desk.waits()) == 4 * 64


def test_what_was_claimed_ahead_is_left_to_be_given_back(table) -> None:
    desk = Desk(table, poll=3600.0)
    ids = table.queue(6 * 64, model=desk.model, input=RECORD)
    busy_with_quick_batches(desk)
    assert desk.accept.step()
    desk.accept.stop()
    assert not desk.accept.step()
    assert sorted(desk.waits()) == sorted(ids)[128:]
