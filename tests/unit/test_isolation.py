"""Running a batch: one outcome per record, whatever the model does. And when to try again."""

import gc
import math
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.db.units import Again, Failure
from headrace.errors import BadOutput
from headrace.job import Done, Failed, Outcome, Retry
from headrace.registry.manifest import Retrying
from headrace.runtimes.isolation import DevicePoisoned, Isolation, Overflow
from tests.unit.items import item
from workers.flow import Item
from workers.store import retried


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class AcceleratorError(RuntimeError):
    """Likewise."""


class Model:
    """Doubles numbers; raises what `bad` says of a number in the batch."""

    memory = 0

    def __init__(self, bad: dict[int, Exception] | None = None, fits: int = 10**6) -> None:
        self.bad = bad or {}
        self.fits = fits
        self.sizes: list[int] = []

    def infer(self, records: Sequence[Any]) -> list[Outcome]:
        self.sizes.append(len(records))
        if len(records) > self.fits:
            raise OutOfMemoryError("CUDA out of memory. CUDA error: no")
        for record in records:
            if record["x"] in self.bad:
                raise self.bad[record["x"]]
        return [Done({"y": 2 * record["x"]}) for record in records]

    def close(self) -> None: ...


def isolation(model: Model, records: Sequence[Any], lengths: Sequence[int] = ()) -> Isolation:
    lengths = lengths or [1] * len(records)
    return Isolation(model.infer, records, lengths, Retrying().passes)


def run(model: Model, records: Sequence[Any]) -> list[Outcome | None]:
    return isolation(model, records).run()


def records(count: int) -> list[dict[str, int]]:
    return [{"x": n} for n in range(count)]


def test_a_good_batch_runs_once() -> None:
    model = Model()
    assert run(model, records(8)) == [Done({"y": 2 * n}) for n in range(8)]
    assert model.sizes == [8]


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=4))
def test_bad_records_fail_alone_at_logarithmic_cost(count: int, bad: set[int]) -> None:
    bad = {n for n in bad if n < count}
    model = Model({n: ValueError(f"no {n}") for n in bad})
    outcomes = run(model, records(count))
    for n, outcome in enumerate(outcomes):
        assert outcome == (
            Failed("model_error", f"ValueError: no {n}") if n in bad else Done({"y": 2 * n})
        )
    assert len(model.sizes) - 1 <= 2 * len(bad) * math.ceil(math.log2(count) if count > 1 else 0)


def test_one_of_our_errors_keeps_its_code() -> None:
    assert run(Model({0: BadOutput("two heads")}), records(1)) == [
        Failed("bad_output", "BadOutput: two heads")
    ]


class TestMemory:
    def test_what_does_not_fit_is_halved_and_nothing_as_large_tried_again(self) -> None:
        model = Model(fits=3)
        batch = isolation(model, records(32))
        assert batch.run() == [Done({"y": 2 * n}) for n in range(32)]
        assert model.sizes == [32, 16, 8, 4] + [2] * 16
        assert batch.overflow == Overflow(too_many=4, fits=2)

    @pytest.mark.parametrize(
        "error",
        [
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. CUDA error: no"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                         "allocate memory: you tried to allocate 8 bytes. Error code 12"),
            AcceleratorError("CUDA error: out of memory"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            MemoryError(),
        ],
    )  # fmt: skip
    def test_a_record_that_never_fits_fails_with_that_and_says_nothing_of_others(
        self, error: Exception
    ) -> None:
        model = Model({5: error})
        batch = isolation(model, records(16))
        outcomes = batch.run()
        failed = outcomes.pop(5)
        assert isinstance(failed, Failed)
        assert failed.code == "out_of_memory"
        assert str(error) in failed.message
        assert all(isinstance(outcome, Done) for outcome in outcomes)
        assert batch.overflow is None
        assert model.sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8]

    def test_tokens_count_once_padded(self) -> None:
        lengths = [1] * 8 + [10] * 8

        class Padding(Model):
            def infer(self, records: Sequence[Any]) -> list[Outcome]:
                if len(records) * max(lengths[r["x"]] for r in records) > 30:
                    raise OutOfMemoryError
                return super().infer(records)

        batch = isolation(Padding(), records(16), lengths)
        assert all(isinstance(outcome, Done) for outcome in batch.run())
        assert batch.overflow == Overflow(too_many=40, fits=20)

    @given(st.integers(1, 64), st.integers(0, 70), st.sets(st.integers(0, 63), max_size=2))
    def test_a_ceiling_is_one_that_holds(self, count: int, fits: int, unfit: set[int]) -> None:
        model = Model(dict.fromkeys(unfit, OutOfMemoryError()), fits)
        batch = isolation(model, records(count))
        outcomes = batch.run()
        expected = {n for n in range(count) if n in unfit or not fits}
        assert {n for n, o in enumerate(outcomes) if isinstance(o, Failed)} == expected
        if batch.overflow is not None:
            assert batch.overflow.fits <= fits < batch.overflow.too_many
        elif fits:
            assert fits >= count or expected

    def test_a_poisoned_device_has_no_records_that_do_not_fit(self) -> None:
        assert isolation(Model(fits=0), records(4)).overflow is None


def test_the_halves_do_not_share_the_memory_of_the_batch_that_failed() -> None:
    class Tensor: ...

    class Hungry(Model):
        alive: weakref.ref[Tensor] | None = None

        def infer(self, records: Sequence[Any]) -> list[Outcome]:
            gc.collect()
            assert self.alive is None or self.alive() is None
            tensor = Tensor()
            self.alive = weakref.ref(tensor)
            return super().infer(records)

    assert all(isinstance(outcome, Done) for outcome in run(Hungry(fits=2), records(8)))


@pytest.mark.parametrize("returned", [0, 4])
def test_a_wrong_number_of_outputs_is_an_error_and_no_shift(returned: int) -> None:
    class Miscounting(Model):
        def infer(self, records: Sequence[Any]) -> list[Outcome]:
            return [Done({})] * returned

    told = f"BadOutput: the model returned {returned} outputs for 1 records"
    assert run(Miscounting(), records(3)) == [Failed("bad_output", told)] * 3


def test_one_that_swallows_a_record_costs_its_batch_mates_nothing() -> None:
    class Swallowing(Model):
        def infer(self, records: Sequence[Any]) -> list[Outcome]:
            return [outcome for outcome in super().infer(records) if outcome.outputs["y"] != 6]

    outcomes = run(Swallowing(), records(8))
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Failed)] == [3]
    assert [o.outputs["y"] for o in outcomes if isinstance(o, Done)] == [0, 2, 4, 8, 10, 12, 14]


@pytest.mark.parametrize(
    "error",
    [AcceleratorError("device-side assert"), RuntimeError("CUDA error: an illegal access")],
)
def test_a_poisoned_device_is_no_records_fault(error: Exception) -> None:
    model = Model({3: error})
    with pytest.raises(DevicePoisoned, match=str(error)):
        run(model, records(8))
    assert model.sizes == [8]


def test_what_the_model_says_of_a_record_stands() -> None:
    class Choosy(Model):
        def infer(self, records: Sequence[Any]) -> list[Outcome]:
            return [Retry(1.0), Failed("unfit", "no"), Done({})]

    assert run(Choosy(), records(3)) == [Retry(1.0), Failed("unfit", "no"), Done({})]


class TestErrorsThatPass:
    def test_the_record_that_raises_one_is_retried_and_its_mates_are_not(self) -> None:
        outcomes = run(Model({6: ConnectionResetError("by peer")}), records(8))
        assert outcomes.pop(6) == Retry(message="ConnectionResetError: by peer")
        assert outcomes == [Done({"y": 2 * n}) for n in (0, 1, 2, 3, 4, 5, 7)]

    def test_where_it_hits_everybody_two_pay_and_the_rest_is_left_for_later(self) -> None:
        class Offline(Model):
            def infer(self, records: Sequence[Any]) -> list[Outcome]:
                self.sizes.append(len(records))
                raise TimeoutError

        model = Offline()
        outcomes = run(model, records(64))
        assert outcomes == [Retry(message="TimeoutError: ")] * 2 + [None] * 62
        assert model.sizes == [64, 32, 16, 8, 4, 2, 1, 1]

    def test_which_they_are_is_told_by_name(self) -> None:
        policy = Retrying(on=("OSError", "zlib.error"))
        assert policy.passes(ConnectionRefusedError())
        assert policy.passes(zlib.error())
        assert not policy.passes(KeyError())
        assert not Retrying(on=()).passes(TimeoutError())


class TestAnotherRun:
    """Given at 100 s."""

    def again(self, item: Item, delay: float | None, attempts: int = 3) -> Failure | Again:
        return retried(item, delay, "not now", attempts, 100.0, Random(1))

    def test_is_due_when_the_model_says(self) -> None:
        given = item()
        assert self.again(given, 7) == Again(given.unit.id, 1, 7.0, counted=True)

    def test_else_after_the_backoff(self) -> None:
        outcome = self.again(item(), None)
        assert isinstance(outcome, Again)
        assert outcome.delay == Retrying().backoff(1, Random(1))

    def test_not_beyond_the_last_attempt(self) -> None:
        given = item()
        told = "attempt 1 of 1: not now"
        assert self.again(given, 7, 1) == Failure(given.unit.id, 1, "retries_exhausted", told)

    def test_not_beyond_the_deadline(self) -> None:
        given = replace(item(), deadline=107.0)
        assert isinstance(self.again(given, 6.9), Again)
        told = "not now; another attempt, in 7.0 s, would miss the deadline"
        assert self.again(given, 7) == Failure(given.unit.id, 1, "deadline", told)

    @pytest.mark.parametrize("said", [float("nan"), -1, "soon"])
    def test_a_delay_that_is_none_is_no_delay(self, said: Any) -> None:
        outcome = self.again(item(), said)
        assert isinstance(outcome, Again)
        assert outcome.delay == 0


class TestBackoff:
    def test_the_bound_doubles_up_to_the_longest(self) -> None:
        class Most(Random):
            def uniform(self, a: float, b: float) -> float:
                assert a == 0
                return b

        policy = Retrying(delay=0.5, max_delay=3)
        waits = [policy.backoff(attempt, Most()) for attempt in (1, 2, 3, 4, 5, 5000)]
        assert waits == [0.5, 1, 2, 3, 3, 3]

    def test_with_full_jitter(self) -> None:
        policy, random = Retrying(delay=8), Random(1)
        waits = sorted(policy.backoff(1, random) for _ in range(1000))
        assert all(0 <= wait <= 8 for wait in waits)
        assert [round(waits[place]) for place in (125, 500, 875)] == [1, 4, 7]
