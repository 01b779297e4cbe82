"""What every transport promises to a Client: submitting."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from headrace import Client, payload
from headrace.db.engine import Database
from headrace.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    JobNotFound,
    ModelNotFound,
)
from headrace.job import JobId, Priority
from headrace.service import Service
from headrace.signature import Field, Signature
from headrace.storage import ObjectStore
from headrace.submission import MAX_RECORDS
from tests.conformance.job_table import JobTable, new_id
from tests.conformance.registered import IMAGE, INLINE, MAX_INPUT, register

DEEP: list = functools.reduce(lambda inner, _: [inner], range(100_000), [])
IMAGE_1 = np.arange(4, dtype=np.float32).reshape(2, 2)


def inputs(table: JobTable) -> list[dict]:
    """What a worker would find, in order of submission."""
    units = []
    worker = table.worker()
    while claimed := table.claim(worker):
        units += claimed
    return [payload.decode(unit.input) for unit in sorted(units, key=lambda unit: unit.id)]


def nothing_stored(client: Client, store: ObjectStore) -> bool:
    return client.list().jobs == [] and list(store.list()) == []


class TestSubmit:
    def test_returns_at_once_though_no_broker_answers(self, client: Client) -> None:
        started = time.monotonic()
        ids = [client.submit("digits", IMAGE_1) for _ in range(20)]
        assert time.monotonic() - started < 10
        assert [client.get(id).state for id in ids] == ["queued"] * 20

    @pytest.mark.parametrize("value", [IMAGE_1, IMAGE_1.tolist(), {"image": IMAGE_1}])
    def test_takes_a_record_or_the_bare_value(self, client, table, value) -> None:
        client.submit("digits", value)
        (record,) = inputs(table)
        np.testing.assert_array_equal(record["image"], IMAGE_1)
        assert record["image"].dtype == np.float32

    def test_takes_bytes_text_and_json(self, client: Client, table: JobTable) -> None:
        record = {"data": b"\0\xff", "options": {"a": [1, None, "ü"]}}
        client.submit("plain", record)
        assert inputs(table) == [record]

    def test_a_job_has_what_was_said_about_it(self, client: Client) -> None:
        id = client.submit("digits", IMAGE_1, priority="high", metadata={"user": 7, "ü": None})
        job = client.get(id)
        assert (str(job.model), job.pool, job.priority) == ("digits@1", "default", Priority.HIGH)
        assert job.metadata == {"user": 7, "ü": None}

    def test_a_name_means_the_stable_version_and_a_number_that_one(
        self, client: Client, database: Database
    ) -> None:
        register(database, "digits", IMAGE)
        ids = [client.submit(ref, IMAGE_1) for ref in ("digits@1", "digits", "digits@stable")]
        assert [client.get(id).model.version for id in ids] == [1, 2, 2]

    def test_two_calls_make_two_jobs(self, client: Client) -> None:
        assert client.submit("digits", IMAGE_1) != client.submit("digits", IMAGE_1)


class TestSubmitMany:
    @pytest.mark.parametrize("form", [np.stack, list, iter, lambda rows: {"image": np.stack(rows)}])
    def test_takes_a_sequence_or_columns_and_keeps_the_order(self, client, table, form) -> None:
        rows = [IMAGE_1 + n for n in range(5)]
        ids = client.submit_many("digits", form(rows))
        assert len(set(ids)) == 5
        assert ids == sorted(ids)
        np.testing.assert_array_equal([r["image"] for r in inputs(table)], rows)

    def test_of_nothing_is_nothing(self, client: Client) -> None:
        assert client.submit_many("digits", []) == []

    def test_one_wrong_record_and_none_is_stored(self, client, store) -> None:
        records = [IMAGE_1] * 5 + [np.zeros((3, 3))] + [IMAGE_1] * 5
        with pytest.raises(InvalidInput, match=r"inputs\[5\]\.image: expected shape \[2, 2\]"):
            client.submit_many("digits", records)
        assert nothing_stored(client, store)

    def test_a_submission_is_bounded(self, client: Client, store: ObjectStore) -> None:
        with pytest.raises(InvalidInput, match=f"1 to {MAX_RECORDS}"):
            client.submit_many("digits", np.zeros((MAX_RECORDS + 1, 2, 2), np.float32))
        assert nothing_stored(client, store)


class TestRefused:
    """With the path of the wrong field, and nothing is stored."""

    @pytest.mark.parametrize(
        ("model", "value", "field"),
        [
            ("digits", np.zeros((2, 3)), "inputs.image"),
            ("digits", {"picture": IMAGE_1}, "inputs.image"),
            ("digits", {"image": IMAGE_1, "more": 1}, "inputs.more"),
            ("digits", np.zeros((2, 2), complex), "inputs.image"),
            ("digits", "text", "inputs.image"),
            ("digits", None, "inputs.image"),
            ("digits", [[1, 2], [3]], "inputs.image"),
            ("digits", {"image": np.full((2, 2), 1e300)}, "inputs.image"),
            ("pair", {"left": [1.0], "note": 5}, "inputs.note"),
            ("pair", [1.0], "inputs"),
            ("plain", {"data": "text", "options": 1}, "inputs.data"),
            ("plain", {"data": b"", "options": {1j}}, "inputs.options"),
            ("plain", {"data": b"", "options": float("nan")}, "inputs.options"),
            ("plain", {"data": b"", "options": DEEP}, "inputs.options"),
            ("plain", {"data": b"", "options": 2**70}, "inputs"),
            ("pair", {"left": [1.0], "note": "\ud800"}, "inputs"),
        ],
    )
    def test_an_input_that_does_not_fit(self, client, store, model, value, field) -> None:
        with pytest.raises(InvalidInput) as caught:
            client.submit(model, value)
        assert caught.value.field == field
        assert nothing_stored(client, store)

    @pytest.mark.parametrize("columns", [True, False])
    def test_a_nan_where_the_signature_forbids_it(
        self, client: Client, database: Database, store: ObjectStore, columns: bool
    ) -> None:
        field = Field("x", "float32", (2,), finite=True)
        register(database, "strict", Signature((field,), (field,)))
        rows = np.array([[1, 2], [3, np.nan], [np.inf, 4]])
        with pytest.raises(InvalidInput, match=r": nan at \[1\]; x takes finite numbers only"):
            client.submit_many("strict", rows if columns else list(rows))
        assert nothing_stored(client, store)
        assert len(client.submit_many("strict", rows[:1])) == 1

    def test_a_record_over_the_limit(self, client: Client, store: ObjectStore) -> None:
        small = {"data": b"x" * (MAX_INPUT - 100), "options": 1}
        large = {"data": b"x" * MAX_INPUT, "options": 1}
        size = len(payload.encode(large))
        complaint = rf"{size} bytes encoded; HEADRACE_MAX_INPUT allows {MAX_INPUT}$"
        with pytest.raises(InvalidInput, match=rf"^inputs\[3\]: {complaint}"):
            client.submit_many("plain", [small, small, small, large])
        with pytest.raises(InvalidInput, match=rf"^inputs: {complaint}"):
            client.submit("plain", large)
        assert nothing_stored(client, store)
        client.submit("plain", small)

    @pytest.mark.parametrize(
        "ref",
        ["nothing", "digits@9", "digits@0", "digits@-1", "digits@", "", "\0", f"digits@{2**80}"],
    )
    def test_an_unknown_model(self, client: Client, store: ObjectStore, ref: str) -> None:
        with pytest.raises(ModelNotFound):
            client.submit(ref, IMAGE_1)
        assert nothing_stored(client, store)

    @pytest.mark.parametrize(
        ("what", "field"),
        [
            ({"priority": "urgent"}, "priority"),
            ({"priority": 1}, "priority"),
            ({"deadline": datetime(2030, 1, 1)}, "deadline"),
            ({"deadline": 0}, "deadline"),
            ({"deadline": -1.0}, "deadline"),
            ({"deadline": float("nan")}, "deadline"),
            ({"deadline": float("inf")}, "deadline"),
            ({"deadline": 1e300}, "deadline"),
            ({"deadline": "tomorrow"}, "deadline"),
            ({"deadline": timedelta(seconds=-1)}, "deadline"),
            ({"metadata": {"a": {1, 2}}}, "metadata"),
            ({"metadata": {"a": float("nan")}}, "metadata"),
            ({"metadata": {"a": "x" * 20_000}}, "metadata"),
            ({"metadata": [1]}, "metadata"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "k" * 201}, "idempotency_key"),
            ({"idempotency_key": "k\0"}, "idempotency_key"),
        ],
    )
    def test_an_argument_that_makes_no_sense(self, client, store, what, field) -> None:
        with pytest.raises(InvalidInput) as caught:
            client.submit("digits", IMAGE_1, **what)
        assert caught.value.field == field
        assert nothing_stored(client, store)


class TestDeadline:
    @pytest.mark.parametrize("deadline", [60, 60.0, timedelta(minutes=1)])
    def test_seconds_or_a_timedelta_count_from_now(self, client: Client, deadline) -> None:
        job = client.get(client.submit("digits", IMAGE_1, deadline=deadline))
        assert job.deadline is not None
        assert abs((job.deadline - job.created_at).total_seconds() - 60) < 0.1

    def test_an_instant_is_that_instant_in_any_zone(self, client: Client) -> None:
        instant = datetime.now(UTC) + timedelta(hours=1)
        job = client.get(client.submit("digits", IMAGE_1, deadline=instant.astimezone()))
        assert job.deadline is not None
        assert abs((job.deadline - instant).total_seconds()) < 0.001


class TestLargeInputs:
    def test_go_to_the_store_in_one_object_and_small_ones_do_not(
        self, client: Client, table: JobTable, store: ObjectStore
    ) -> None:
        large = [{"data": bytes([n]) * (INLINE + n), "options": n} for n in range(3)]
        small = {"data": b"x", "options": None}
        client.submit_many("plain", [large[0], small, *large[1:]])
        (info,) = store.list()
        units = sorted(table.claim(table.worker()), key=lambda unit: unit.id)
        assert [unit.input is None for unit in units] == [True, False, True, True]
        at = [unit.input_at for unit in units if unit.input_at]
        assert {key for key, _, _ in at} == {info.key}
        assert [payload.decode(store.get(*place)) for place in at] == large

    def test_leave_nothing_behind_when_the_submission_conflicts(
        self, client: Client, store: ObjectStore
    ) -> None:
        client.submit("plain", {"data": b"x", "options": 1}, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            client.submit("plain", {"data": b"x" * 5000, "options": 1}, idempotency_key="k")
        assert list(store.list()) == []

    def test_are_stored_once_however_often_they_are_submitted(self, client, store, table) -> None:
        record = {"data": b"x" * 5000, "options": 1}
        ids = {client.submit("plain", record, idempotency_key="k") for _ in range(3)}
        assert len(ids) == len(list(store.list())) == 1
        (unit,) = table.claim(table.worker())
        assert payload.decode(store.get(*unit.input_at)) == record

    def test_stay_where_the_databases_answer_got_lost(
        self, client: Client, service: Service, store, monkeypatch
    ) -> None:
        """The commit may have gone through: a job without its input would be worse."""

        def committed_but_who_knows(*_: object) -> None:
            raise DatabaseUnavailable("the connection broke during the commit")

        monkeypatch.setattr(service, "_insert", committed_but_who_knows)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        with pytest.raises(DatabaseUnavailable):
            client.submit("plain", {"data": b"x" * 5000, "options": 1})
        assert len(list(store.list())) == 1


class TestIdempotency:
    def test_the_same_call_again_returns_the_same_jobs(self, client: Client) -> None:
        rows = np.stack([IMAGE_1, IMAGE_1 + 1])
        first = client.submit_many("digits", rows, idempotency_key="k")
        assert client.submit_many("digits", rows, idempotency_key="k") == first
        assert len(client.list().jobs) == 2

    def test_another_payload_conflicts_and_stores_nothing(self, client: Client) -> None:
        id = client.submit("digits", IMAGE_1, idempotency_key="k")
        with pytest.raises(IdempotencyConflict, match=f"'k' belongs to job {id}") as caught:
            client.submit("digits", IMAGE_1 + 1, idempotency_key="k")
        assert (caught.value.key, caught.value.job_id) == ("k", id)
        assert [job.id for job in client.list().jobs] == [id]

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_more_or_fewer_records_are_another_payload(self, client: Client, count: int) -> None:
        rows = np.stack([IMAGE_1 + n for n in range(4)])
        ids = client.submit_many("digits", rows[:3], idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            client.submit_many("digits", rows[:count], idempotency_key="k")
        assert len(client.list().jobs) == len(ids)

    def test_another_model_conflicts(self, client: Client, database: Database) -> None:
        register(database, "other", IMAGE)
        client.submit("digits", IMAGE_1, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            client.submit("other", IMAGE_1, idempotency_key="k")

    def test_of_many_at_once_one_job_is_made(self, client: Client) -> None:
        with ThreadPoolExecutor(8) as threads:
            ids = set(
                threads.map(
                    lambda _: client.submit("digits", IMAGE_1, idempotency_key="k"), range(16)
                )
            )
        assert [job.id for job in client.list().jobs] == list(ids)


@pytest.mark.parametrize("id", [new_id(), "no uuid", ""])
def test_a_job_that_does_not_exist_is_not_found(client: Client, id: str) -> None:
    with pytest.raises(JobNotFound) as caught:
        client.get(JobId(id))
    assert caught.value.job_id == id
    with pytest.raises(JobNotFound):
        client.status(JobId(id))
    with pytest.raises(JobNotFound):
        client.result(JobId(id), timeout=5)
    with pytest.raises(JobNotFound):
        client.wait(JobId(id), timeout=5)
    assert client.cancel(JobId(id)) == []
