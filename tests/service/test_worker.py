"""One worker that serves several models, as its clients see it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import Priority
from headrace.errors import JobFailed
from tests.service.rig import Rig, eventually, rig


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, redis_url: str
) -> Iterator[Rig]:
    """Started once: each test brings jobs of its own."""
    folder = tmp_path_factory.mktemp("worker")
    shutil.copy(migrated_database, folder / "jobs.db")
    with rig(folder, f"sqlite:///{folder}/jobs.db", redis_url) as worker:
        worker.push("echo", max_records=16)
        worker.push("small", max_records=4)
        worker.push("outlaw", allow=False)
        worker.push("bomb", explode=True)
        worker.start()
        yield worker


def test_results_are_the_models_own_in_order(worker: Rig) -> None:
    ids = worker.submit("echo", range(100))
    results = worker.client.results(ids, timeout=60)
    assert [int(result["value"]) for result in results] == list(range(0, 200, 2))
    assert {job.attempt for job in worker.client.wait(ids)} == {1}


def test_jobs_submitted_one_by_one_share_batches(worker: Rig) -> None:
    blocker = worker.submit("echo", [0], op="sleep 0.5")
    ids = [id for n in range(32) for id in worker.submit("echo", [n])]
    sizes = [int(result["size"]) for result in worker.client.results(blocker + ids, timeout=60)]
    assert max(sizes) > 1
    assert max(sizes) <= 16


def test_models_and_priorities_mix(worker: Rig) -> None:
    ids = []
    for n in range(20):
        for model in ("echo", "small"):
            ids += worker.submit(model, [n], priority=list(Priority)[n % 3])
    results = worker.client.results(ids, timeout=60)
    assert [int(result["value"]) for result in results] == [2 * (n // 2) for n in range(40)]
    assert max(int(result["size"]) for result in results[1::2]) <= 4


def test_a_record_that_raises_fails_alone(worker: Rig) -> None:
    ops = ["double"] * 7 + ["raise"] + ["double"] * 7
    ids = worker.client.submit_many("echo", [{"op": op, "value": n} for n, op in enumerate(ops)])
    states = [job.state for job in worker.client.wait(ids, timeout=60)]
    assert states == ["succeeded"] * 7 + ["failed"] + ["succeeded"] * 7
    with pytest.raises(JobFailed, match=r"model_error: ValueError: no 7, . please") as caught:
        worker.client.result(ids[7])
    assert "\0" not in caught.value.message


def test_a_record_may_say_itself_that_it_failed(worker: Rig) -> None:
    (id,) = worker.submit("echo", [5], op="fail")
    with pytest.raises(JobFailed, match="unfit: 5 is beyond help"):
        worker.client.result(id, timeout=60)


def test_outputs_that_cannot_be_stored_fail_their_record_alone(worker: Rig) -> None:
    garbled, fine = worker.client.submit_many(
        "echo", [{"op": "garble", "value": 1}, {"op": "double", "value": 2}]
    )
    with pytest.raises(JobFailed, match="bad_output"):
        worker.client.result(garbled, timeout=60)
    assert int(worker.client.result(fine, timeout=60)["value"]) == 4


def test_a_retry_is_honoured_and_bounded(worker: Rig) -> None:
    (id,) = worker.submit("echo", [1], op="retry 0.1")
    job = worker.client.wait(id, timeout=60)
    assert (job.state, job.attempt) == ("failed", 3)
    assert job.error is not None
    assert job.error.code == "retries_exhausted"
    assert "not now" in job.error.message
    assert (job.finished_at - job.created_at).total_seconds() > 0.2


def test_an_error_that_may_pass_is_retried(worker: Rig) -> None:
    (id,) = worker.submit("echo", [4], op=f"flaky {worker.folder / 'flaky'}")
    assert int(worker.client.result(id, timeout=60)["value"]) == 8
    assert worker.client.get(id).attempt == 2


def test_a_retry_that_would_miss_the_deadline_is_not_waited_for(worker: Rig) -> None:
    (id,) = worker.submit("echo", [1], op="retry 60", deadline=30)
    job = worker.client.wait(id, timeout=60)
    assert (job.state, job.attempt) == ("failed", 1)
    assert job.error is not None
    assert job.error.code == "deadline"
    assert "not now; another attempt, in 60.0 s, would miss the deadline" in job.error.message


def test_a_record_for_which_the_model_gives_no_output_fails_alone(worker: Rig) -> None:
    swallow, fine = worker.client.submit_many(
        "echo", [{"op": "swallow", "value": 1}, {"op": "double", "value": 2}]
    )
    with pytest.raises(JobFailed, match="0 answers for 1 records"):
        worker.client.result(swallow, timeout=60)
    assert int(worker.client.result(fine, timeout=60)["value"]) == 4


def test_a_job_cancelled_before_its_batch_leaves_no_result(worker: Rig) -> None:
    with worker.held("echo") as blocker:
        ids = worker.submit("small", range(8))
        assert set(worker.client.cancel(ids)) == set(ids)
    worker.client.results(blocker, timeout=60)
    after = worker.submit("small", [1])
    worker.client.results(after, timeout=60)
    assert worker.states(ids) == {"cancelled": 8}
    assert not set(ids) & set(worker.committed())


def test_what_is_cancelled_or_late_is_not_computed_once_the_batch_in_flight_is_done(
    worker: Rig,
) -> None:
    """Neither what waits for its batch nor what is staged behind the device."""
    worker.client.results(worker.submit("small", range(8)), timeout=60)  # known to be quick
    notes = worker.folder / "notes"
    with worker.held("small") as blocker:
        late = worker.submit("small", [1], op=f"note {notes}", deadline=(seconds := 2.0))
        too_late = time.monotonic() + seconds
        staged = late + worker.submit("small", [2, 3, 4], op=f"note {notes}")
        waiting = worker.submit("echo", [5, 6], op=f"note {notes}")
        eventually("a full batch is staged", lambda: set(staged) < set(worker.on_device()))
        eventually("the next one is claimed", lambda: worker.states(waiting) == {"running": 2})
        worker.client.cancel([*staged[2:], *waiting])
        time.sleep(max(0, too_late - time.monotonic()))
    assert worker.client.wait([*staged, *blocker], timeout=60)[1].state == "succeeded"
    assert worker.client.get(late[0]).state == "expired"
    assert notes.read_text() == "2\n"
    assert worker.states(waiting) == {"cancelled": 2}


def test_a_submission_under_one_key_runs_once(worker: Rig) -> None:
    ids = [worker.submit("echo", range(5), idempotency_key="once") for _ in range(3)]
    assert ids[0] == ids[1] == ids[2]
    worker.client.results(ids[0], timeout=60)
    assert {worker.committed()[id] for id in ids[0]} == {1}


@pytest.mark.parametrize("model", ["outlaw", "bomb"])
def test_a_version_that_cannot_be_served_waits_while_others_run(worker: Rig, model: str) -> None:
    refused = worker.submit(model, range(3), priority="high")
    served = worker.submit("echo", range(20))
    worker.client.results(served, timeout=60)
    assert worker.states(refused) == {"queued": 3}
    assert {worker.client.get(id).attempt for id in refused} == {0}
    assert f"cannot serve {model}@1" in worker.log()
    worker.client.cancel(refused)


def test_every_pack_is_whole_and_every_result_counted_once(worker: Rig) -> None:
    """After all of the above: run last."""
    assert set(worker.committed().values()) == {1}
    assert "died" not in worker.log()
