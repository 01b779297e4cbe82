"""The demo's judge, with faults planted: it must find each, and name the job."""

import numpy as np
import pytest

from examples.digits.check import find_faults
from headrace.job import JobId
from headrace.registry.manifest import Tolerance

IDS = [JobId(f"job-{i}") for i in range(4)]
TOLERANCE = Tolerance(rtol=1e-4, atol=1e-5)


class Run:
    """A run without a fault, for a test to spoil."""

    def __init__(self):
        self.ids = list(IDS)
        self.expected = [self.record(i) for i in range(4)]
        self.results = {id: self.record(i) for i, id in enumerate(IDS)}
        self.stored = [(id, self.record(i)) for i, id in enumerate(IDS)]

    def record(self, i: int) -> dict[str, np.ndarray]:
        return {"logits": np.arange(10, dtype=np.float32) + i}

    def faults(self) -> list[str]:
        return find_faults(self.ids, self.expected, self.results, iter(self.stored), TOLERANCE)


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_run_without_a_fault(run):
    assert run.faults() == []


def test_the_last_float_bits_may_differ(run):
    run.results[IDS[1]]["logits"] *= 1 + 1e-6
    assert run.faults() == []


def test_a_result_that_differs(run):
    run.results[IDS[1]]["logits"][3] += 0.01
    (fault,) = run.faults()
    assert fault.startswith("job job-1: logits differs from the direct run by up to 0.01")


def test_two_results_exchanged(run):
    run.results[IDS[0]], run.results[IDS[3]] = run.results[IDS[3]], run.results[IDS[0]]
    assert [fault.split(":")[0] for fault in run.faults()] == ["job job-0", "job job-3"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_result_that_is_no_number(run, value):
    run.results[IDS[2]]["logits"][0] = value
    (fault,) = run.faults()
    assert fault.startswith("job job-2")


def test_a_result_of_another_shape_or_dtype(run):
    run.results[IDS[0]] = {"logits": np.zeros(9, np.float32)}
    run.results[IDS[1]] = {"logits": run.expected[1]["logits"].astype(np.float64)}
    assert run.faults() == [
        "job job-0: logits is float32[9] instead of float32[10]",
        "job job-1: logits is float64[10] instead of float32[10]",
    ]


def test_a_result_under_another_name(run):
    run.results[IDS[0]] = {"scores": run.expected[0]["logits"]}
    assert run.faults() == ["job job-0: outputs ['scores'] instead of ['logits']"]


def test_a_missing_result(run):
    del run.results[IDS[2]]
    assert run.faults() == ["job job-2: the client has no result"]


def test_a_result_missing_in_the_store(run):
    del run.stored[2]
    assert run.faults() == ["job job-2: its result is in the store 0 times, not once"]


def test_a_result_twice_in_the_store(run):
    run.stored.append(run.stored[0])
    assert run.faults() == ["job job-0: its result is in the store 2 times, not once"]


def test_a_wrong_copy_in_the_store(run):
    run.stored[3] = (IDS[3], run.record(0))
    (fault,) = run.faults()
    assert fault.startswith("job job-3: in the store, logits differs")


def test_one_job_for_two_images(run):
    run.ids[1] = run.ids[0]
    run.expected[1] = run.expected[0]
    assert run.faults() == ["job job-0: submitted for 2 images"]


def test_other_jobs_results_do_not_matter(run):
    run.stored.append((JobId("of-an-earlier-demo"), run.record(0)))
    assert run.faults() == []
