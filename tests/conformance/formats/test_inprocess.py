"""headrace.load: a worker's validation, batches and outcomes, in this process."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import BadOutput, InvalidInput, JobFailed
from headrace.inprocess import LocalModel, load, plan_batches
from headrace.job import Done, Failed, Retry
from headrace.registry.manifest import Batching, Manifest
from headrace.registry.package import Package
from headrace.signature import Field, Signature
from tests.conformance.formats import models

NUMBER = Signature((Field("n", "int64", ("k",), 0.0),), (Field("y", "int64"),))


class Picky:
    """Raises on 13, retries on 7, fails on 9; answers one outcome too few on 99."""

    memory = 0

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.closed = False

    def infer(self, records):
        numbers = [int(record["n"][0]) for record in records]
        self.batches.append(numbers)
        if 13 in numbers:
            raise ZeroDivisionError("unlucky")
        answers = {7: Retry(1.0, "later"), 9: Failed("nine", "no nines")}
        outcomes = [answers.get(n, Done({"y": np.array(n)})) for n in numbers]
        return outcomes[:-1] if 99 in numbers else outcomes

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def picky(tmp_path) -> LocalModel:
    manifest = Manifest("m", "python", NUMBER, handler="h.py", batching=Batching(4, 12))
    return LocalModel(Package(tmp_path, manifest, {}, "", {}), Picky())


def test_one_record(picky) -> None:
    assert picky([3]) == {"y": np.array(3)}
    assert picky({"n": [3, 4]}) == {"y": np.array(3)}
    with pytest.raises(InvalidInput, match=r"inputs\.n: expected shape"):
        picky(3)
    with pytest.raises(JobFailed, match="nine: no nines"):
        picky([9])
    with pytest.raises(JobFailed, match="retry: later"):
        picky([7])
    with pytest.raises(ZeroDivisionError):
        picky([13])
    with pytest.raises(BadOutput, match="0 outcomes for 1 records"):
        picky([99])


def test_one_bad_record_stands_alone(picky) -> None:
    outcomes = picky.many([[1], [13], [7], [9], [2]])
    assert outcomes[0] == Done({"y": np.array(1)})
    assert outcomes[1] == Failed("model_error", "ZeroDivisionError: unlucky")
    assert isinstance(outcomes[2], Retry)
    assert isinstance(outcomes[3], Failed)
    assert outcomes[4] == Done({"y": np.array(2)})
    (count,) = picky.many([[99]])
    assert isinstance(count, Failed)
    assert count.code == "bad_output"


def test_nothing_runs_where_one_record_is_invalid(picky) -> None:
    with pytest.raises(InvalidInput) as caught:
        picky.many([[1], "two"])
    assert caught.value.field.startswith("inputs[1]")
    assert picky._model.batches == []


def test_records_columns_and_bare_arrays_are_the_same(picky) -> None:
    rows = [[1, 0], [2, 0], [3, 0]]
    want = [Done({"y": np.array(n)}) for n in (1, 2, 3)]
    for given in (rows, {"n": rows}, np.array(rows), iter(rows), [{"n": row} for row in rows]):
        assert picky.many(given) == want
    assert picky.many([]) == []


def test_order_is_kept_across_lengths_and_batches(picky) -> None:
    lengths = [5, 1, 4, 2, 3, 1, 6, 20]
    rows = [[n + 20] + [0] * (length - 1) for n, length in enumerate(lengths)]
    outcomes = picky.many(rows)
    assert [int(outcome.outputs["y"]) for outcome in outcomes] == list(range(20, 28))
    for batch in picky._model.batches:
        assert len(batch) <= 4
        longest = max(lengths[n - 20] for n in batch)
        assert len(batch) == 1 or longest * len(batch) <= 12


def test_batches_hold_one_bucket() -> None:
    signature = Signature((Field("n", "int64", ("k",)),), ())
    rows = [{"n": np.zeros(k)} for k in (1, 2, 1, 2, 1)]
    assert list(plan_batches(signature, Batching(2), rows)) == [[0, 2], [4], [1, 3]]


def test_closes(picky) -> None:
    with picky as model:
        assert model.signature is NUMBER
    assert picky._model.closed


def test_a_real_package_pads_and_cuts(pool_package) -> None:
    records = [models.record(tokens, tokens) for tokens in (3, 9, 1)]
    with load(pool_package) as model:
        for record, outcome in zip(records, model.many(records), strict=True):
            want = models.expected(record)
            for name, value in model(record).items():
                assert value.shape == outcome.outputs[name].shape == want[name].shape
                np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(outcome.outputs[name], want[name], rtol=1e-4, atol=1e-6)
