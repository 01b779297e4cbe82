"""Tickets: acked when a claim has answered them, ended when its jobs have."""

from collections.abc import Callable
from typing import Any

import pytest

from headrace.job import JobId
from workers.tickets import Tickets

A, B, C = JobId("a"), JobId("b"), JobId("c")


class Celery:
    """What Celery's thread gets to do, at once."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.tickets = Tickets(self.post)

    def post(self, calls: list[Callable[[], Any]]) -> None:
        for call in calls:
            call()

    def deliver(self, name: str, *ids: JobId) -> None:
        self.tickets.hear(
            lambda pid, at: self.events.append(f"{name} accepted"),
            lambda answer: self.events.append(f"{name}: {answer[1].split(' on')[0]}"),
            ids,
        )


@pytest.fixture
def celery() -> Celery:
    return Celery()


def test_a_ticket_is_accepted_when_a_claim_has_answered_it_and_not_before(celery: Celery) -> None:
    celery.deliver("first")
    assert celery.events == []
    celery.tickets.claimed([A])
    assert celery.events == ["first accepted"]


def test_it_succeeds_when_the_last_of_its_jobs_is_settled(celery: Celery) -> None:
    celery.deliver("first")
    celery.tickets.claimed([A, B, C])
    celery.tickets.settled([A, C], 0.002)
    assert celery.events == ["first accepted"]
    celery.tickets.settled([B], 0.001)
    assert celery.events[1:] == ["first: 3 jobs, 3.0 ms"]
    celery.tickets.settled([A, B, C], 1.0)
    assert len(celery.events) == 2


def test_a_batch_may_settle_jobs_of_several_tickets(celery: Celery) -> None:
    celery.deliver("first")
    celery.deliver("second")
    celery.tickets.claimed([A])
    celery.tickets.claimed([B, C])
    celery.tickets.settled([A, B], 0.001)
    assert celery.events == ["first accepted", "second accepted", "first: 1 jobs, 1.0 ms"]
    celery.tickets.settled([C], 0.001)
    assert celery.events[-1] == "second: 2 jobs, 2.0 ms"


def test_a_claim_without_a_ticket_concerns_none_of_other_jobs(celery: Celery) -> None:
    celery.tickets.claimed([A])
    celery.deliver("other", B)
    celery.tickets.settled([A], 0.001)
    assert celery.events == []
    assert celery.tickets.heard() == 1


def test_a_ticket_that_comes_after_its_claim_is_answered_by_it(celery: Celery) -> None:
    celery.tickets.claimed([A, B])
    celery.deliver("late", C, B)
    assert celery.events == ["late accepted"]
    assert celery.tickets.heard() == 0, "it is no reason to look again"
    celery.tickets.settled([A], 0.001)
    celery.deliver("later", A)
    celery.tickets.settled([B], 0.001)
    assert celery.events[1:] == ["later accepted", "late: 2 jobs, 2.0 ms", "later: 2 jobs, 2.0 ms"]


def test_also_one_that_comes_when_all_is_done(celery: Celery) -> None:
    celery.tickets.claimed([A])
    celery.tickets.settled([A], 0.001)
    celery.deliver("late", A)
    celery.deliver("again", A)
    assert celery.events == ["late accepted", "late: 1 jobs, 1.0 ms"]
    assert celery.tickets.heard() == 1, "a job that was claimed twice may be due again"


def test_claims_are_not_remembered_for_ever(celery: Celery) -> None:
    ids = [JobId(str(n)) for n in range(1000)]
    for id in ids:
        celery.tickets.claimed([id])
        celery.tickets.settled([id], 0.001)
    celery.deliver("forgotten", ids[0])
    celery.deliver("fresh", ids[-1])
    assert celery.events == ["fresh accepted", "fresh: 1 jobs, 1.0 ms"]


def test_an_empty_claim_ends_the_tickets_that_were_in_hand_before_it(celery: Celery) -> None:
    celery.deliver("stale")
    heard = celery.tickets.heard()
    celery.deliver("fresh")
    celery.tickets.nothing_due(heard)
    assert celery.events == ["stale accepted", "stale: nothing due"]
    assert celery.tickets.heard() == 1


def test_a_lost_connection_voids_what_was_not_acked(celery: Celery) -> None:
    celery.deliver("acked")
    celery.tickets.claimed([A])
    celery.deliver("void")
    celery.tickets.forget()
    assert celery.tickets.heard() == 0
    celery.tickets.nothing_due(1)
    celery.tickets.settled([A], 0.001)
    assert celery.events == ["acked accepted", "acked: 1 jobs, 1.0 ms"]


def test_a_job_claimed_again_belongs_to_its_new_ticket(celery: Celery) -> None:
    celery.deliver("first")
    celery.tickets.claimed([A])
    celery.tickets.settled([A], 0.0)
    celery.deliver("second")
    celery.tickets.claimed([A])
    celery.tickets.settled([A], 0.001)
    assert celery.events[-1] == "second: 1 jobs, 1.0 ms"


class TestWait:
    def test_with_a_ticket_in_hand_there_is_reason_to_look(self, celery: Celery) -> None:
        celery.deliver("one")
        assert celery.tickets.wait(timeout=3600)

    def test_when_the_poll_is_due_there_is_too(self, celery: Celery) -> None:
        assert celery.tickets.wait(timeout=0)

    def test_a_wake_up_is_a_reason_to_look_once(self, celery: Celery) -> None:
        celery.tickets.wake()
        assert celery.tickets.wait(timeout=3600)
        assert not celery.tickets.wait(timeout=1.01)
