"""The client over a transport that only notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from headrace import Client, Priority
from headrace.errors import InvalidInput, JobNotFound, JobUnfinished, WaitTimeout
from headrace.job import Job, JobId, JobState, ModelKey
from headrace.transport import Filter, Page, Result, Status, Submission

A, B, C = JobId("a"), JobId("b"), JobId("c")


class Time:
    """Passes only while somebody sleeps, or while the transport is slow."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class Notebook:
    """A transport. ends_after: how often it must be asked before a job has ended."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.ends_after: dict[JobId, int] = {}
        self.asked: list[list[JobId]] = []
        self.told: dict[JobId, Result] = {}
        self.submissions: list[Submission] = []
        self.pages: list[tuple[Filter, int, str | None]] = []
        self.seconds_per_ask = 0.0
        self.closed = False

    def submit(self, submission: Submission) -> list[JobId]:
        self.submissions.append(submission)
        return [A, B, C][: len(submission.inputs)]

    def get(self, ids: Sequence[JobId]) -> list[Job]:
        for id in ids:
            if id not in self.ends_after:
                raise JobNotFound(id)
        return [
            Job(
                id,
                ModelKey("m", 1),
                "default",
                JobState.SUCCEEDED,
                Priority.NORMAL,
                1,
                datetime.now(UTC),
            )
            for id in ids
        ]

    def status(self, id: JobId) -> Status:
        return Status(JobState.QUEUED, "waits")

    def ended(self, ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        self.asked.append(list(ids))
        self.time.now += self.seconds_per_ask
        return {
            id: JobState.SUCCEEDED
            for id in ids
            if id in self.ends_after and self.ends_after[id] < len(self.asked)
        }

    def listen(self, ids: Sequence[JobId], seconds: float) -> Mapping[JobId, Result]:
        self.time.sleep(seconds)
        return self.told

    def results(self, ids: Sequence[JobId]) -> Iterable[Result]:
        if len(ids) == 1 and not self.ended(ids):
            raise JobUnfinished(ids[0], "queued", "the job is queued")
        frozen = np.zeros(2)
        frozen.flags.writeable = False
        return [{"id": id, "y": frozen} for id in ids]

    def cancel(self, ids: Sequence[JobId]) -> list[JobId]:
        return list(ids)

    def replay(self, ids: Sequence[JobId], deadline: datetime | float | None) -> list[JobId]:
        return list(ids)

    def page(self, filter: Filter, limit: int, cursor: str | None) -> Page:
        self.pages.append((filter, limit, cursor))
        return Page([], None)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    fake = SimpleNamespace(monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr("headrace.client.time", fake)
    return time


@pytest.fixture
def transport(time: Time) -> Notebook:
    return Notebook(time)


@pytest.fixture
def client(transport: Notebook) -> Client:
    return Client(transport=transport)


class TestWait:
    def test_asks_for_all_at_once_and_then_only_for_the_rest(self, client, transport) -> None:
        transport.ends_after = {A: 0, B: 2, C: 1}
        client.wait([A, B, C])
        assert transport.asked == [[A, B, C], [B, C], [B]]

    def test_an_id_given_twice_is_asked_for_once(self, client, transport) -> None:
        transport.ends_after = {A: 0}
        assert len(client.wait([A, A])) == 2
        assert transport.asked == [[A]]

    def test_backs_off_from_5_ms_to_a_second(self, client, transport, time) -> None:
        transport.ends_after = {A: 30}
        client.wait(A)
        assert time.sleeps[0] == 0.005
        assert time.sleeps == sorted(time.sleeps)
        assert time.sleeps[-1] == 1.0
        assert len(time.sleeps) == 30

    def test_leaves_a_slow_server_alone_for_longer_than_it_took(
        self, client, transport, time
    ) -> None:
        transport.ends_after = {A: 20}
        transport.seconds_per_ask = 5.0
        client.wait(A, timeout=None)
        assert min(time.sleeps) > 5.0

    def test_one_gives_a_job_and_many_a_list(self, client, transport) -> None:
        transport.ends_after = {A: 0, B: 0}
        assert client.wait(A).id == A
        assert [job.id for job in client.wait([B, A])] == [B, A]
        assert client.wait([]) == []

    def test_times_out_on_time_and_says_how_many_are_left(self, client, transport, time) -> None:
        transport.ends_after = {A: 0, B: 1000, C: 1000}
        with pytest.raises(WaitTimeout, match=r"2 of 3 jobs .* 3 s \(first: b\)") as caught:
            client.wait([A, B, C], timeout=3)
        assert time.now == 1003
        assert caught.value.pending == 2
        assert isinstance(caught.value, TimeoutError)

    def test_without_a_timeout_waits_as_long_as_it_takes(self, client, transport, time) -> None:
        transport.ends_after = {A: 5000}
        client.wait(A, timeout=None)
        assert time.now > 4000

    def test_with_a_timeout_of_0_looks_once(self, client, transport, time) -> None:
        transport.ends_after = {A: 0, B: 9}
        client.wait(A, timeout=0)
        with pytest.raises(WaitTimeout):
            client.wait(B, timeout=0)
        assert time.sleeps == []

    def test_an_id_that_does_not_exist_is_told_soon(self, client, transport, time) -> None:
        transport.ends_after = {A: 1000}
        with pytest.raises(JobNotFound):
            client.wait([A, B])
        assert sum(time.sleeps) < 0.5

    def test_an_id_that_does_not_exist_is_told_before_a_timeout(self, client, transport) -> None:
        transport.ends_after = {A: 1000}
        with pytest.raises(JobNotFound):
            client.wait([A, B], timeout=0)

    def test_reports_progress(self, client, transport) -> None:
        transport.ends_after = {A: 0, B: 2, C: 2}
        seen: list[tuple[int, int]] = []
        client.wait([A, B, C], progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 3), (1, 3), (3, 3)]

    def test_draws_a_bar_on_stderr(self, client, transport, capsys) -> None:
        transport.ends_after = {A: 0, B: 1}
        client.wait([A, B], progress=True)
        out, err = capsys.readouterr()
        assert out == ""
        assert "2/2" in err


class TestResults:
    def test_are_the_callers_own_to_write_to(self, client, transport) -> None:
        transport.ends_after = {A: 0}
        result = client.result(A)
        result["y"][0] = 1

    def test_one_is_asked_for_until_it_is_there(self, client, transport, time) -> None:
        transport.ends_after = {A: 2}
        assert client.result(A)["id"] == A
        assert time.sleeps == [0.005, 0.00625]

    def test_one_that_was_heard_is_not_asked_for(self, client, transport) -> None:
        transport.ends_after = {A: 2}
        transport.told = {A: {"id": A, "heard": True}}
        assert client.result(A)["heard"]
        assert transport.asked == [[A]]

    def test_one_submitted_just_now_is_waited_for_before_it_is_asked_for(
        self, client, transport, time
    ) -> None:
        transport.ends_after = {A: 0}
        client.result(client.submit("m", 1.0))
        assert (time.sleeps, transport.asked) == ([0.005], [[A]])
        client.result(client.submit("m", 1.0))
        time.now += 0.01
        client.result(A)
        assert (time.sleeps, transport.asked) == ([0.005] * 2, [[A]] * 3)
        transport.told = {A: {"id": A}}
        time.sleep = lambda seconds: None
        client.result(client.submit("m", 1.0))
        assert len(transport.asked) == 3, "it is over as soon as it is heard"

    def test_wait_for_every_job_first(self, client, transport) -> None:
        transport.ends_after = {A: 2, B: 0}
        assert [result["id"] for result in client.results([B, A])] == [B, A]
        assert len(transport.asked) == 3


class TestSubmit:
    def test_sends_what_was_said(self, client, transport) -> None:
        client.submit(
            "m@2", [1.0], priority="bulk", deadline=timedelta(minutes=1), idempotency_key="k"
        )
        (sent,) = transport.submissions
        assert (sent.model, sent.inputs, sent.columns) == ("m@2", [[1.0]], False)
        assert (sent.priority, sent.deadline, sent.idempotency_key) == (Priority.BULK, 60.0, "k")

    @pytest.mark.parametrize(
        ("inputs", "columns"),
        [
            ([1, 2], False),
            ((n for n in (1, 2)), False),
            (np.zeros((2, 3)), True),
            ({"x": np.zeros(2), "y": np.zeros(2)}, True),
        ],
    )
    def test_many_are_records_or_columns(self, client, transport, inputs, columns) -> None:
        assert client.submit_many("m", inputs) == [A, B]
        assert transport.submissions[0].columns is columns

    def test_many_of_nothing_asks_nobody(self, client, transport) -> None:
        assert client.submit_many("m", iter(())) == []
        assert transport.submissions == []

    @pytest.mark.parametrize("priority", ["urgent", "", 1, None])
    def test_refuses_a_priority_that_is_none(self, client, transport, priority) -> None:
        with pytest.raises(InvalidInput, match="priority: expected one of high, normal, bulk"):
            client.submit("m", 1, priority=priority)
        assert transport.submissions == []


def test_list_passes_the_filters_on(client, transport) -> None:
    now = datetime.now(UTC)
    client.list(model="m@1", state=["queued", JobState.FAILED], since=now, limit=5, cursor="c")
    client.list(state="running")
    (first, limit, cursor), (second, *_) = transport.pages
    assert first == Filter("m@1", (JobState.QUEUED, JobState.FAILED), now, None)
    assert (limit, cursor) == (5, "c")
    assert second.states == (JobState.RUNNING,)


def test_cancel_takes_one_or_many(client) -> None:
    assert client.cancel(A) == [A]
    assert client.cancel([A, B]) == [A, B]


def test_closes_its_transport(transport) -> None:
    with Client(transport=transport):
        assert not transport.closed
    assert transport.closed


def test_takes_a_transport_or_settings(transport) -> None:
    with pytest.raises(TypeError, match="either"):
        Client(transport=transport, database_url="sqlite:///x.db")
