"""How values are written into golden.jsonl, and how they are compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headrace.errors import GoldenMismatch
from headrace.job import Done, Failed
from headrace.registry import golden
from headrace.registry.manifest import Manifest
from headrace.registry.package import Package
from headrace.signature import Field, Signature

ODD = Signature(
    (Field("n", "int64"),),
    (
        Field("f", "float32", (4,)),
        Field("h", "float16", (2,)),
        Field("c", "complex64", (2,)),
        Field("big", "uint64"),
        Field("flags", "bool", ("k",)),
        Field("empty", "float32", ("k2", 3)),
        Field("raw", "bytes"),
        Field("text", "string"),
        Field("any", "json"),
    ),
)
OUTPUTS = {
    "f": np.array([np.nan, np.inf, -np.inf, 0.1], np.float32),
    "h": np.array([65504, np.nan], np.float16),
    "c": np.array([1 + 2j, complex(1, -np.inf)], np.complex64),
    "big": np.array(2**64 - 1, np.uint64),
    "flags": np.array([True, False]),
    "empty": np.empty((0, 3), np.float32),
    "raw": b"\0\xff",
    "text": "Ünïcode\n",
    "any": {"a": [1, None]},
}


def test_odd_values_survive_as_strict_json(tmp_path) -> None:
    golden.write(tmp_path, ODD, [({"n": np.array(1)}, OUTPUTS)])
    text = (tmp_path / "golden.jsonl").read_text("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (example,) = golden.read(tmp_path, ODD)
    for name, value in OUTPUTS.items():
        got = example.outputs[name]
        if isinstance(value, np.ndarray):
            assert got.dtype == value.dtype
            np.testing.assert_array_equal(got, value)
        else:
            assert got == value


def test_what_json_cannot_say_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        golden.write(tmp_path, ODD, [({"n": np.array(1)}, {**OUTPUTS, "any": float("nan")})])


class Answers:
    """A model that answers what it is told to."""

    memory = 0

    def __init__(self, answer) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def infer(self, records):
        self.batches.append(len(records))
        return [self.answer(int(record["n"]), len(records)) for record in records]

    def close(self) -> None:
        pass


def checked(tmp_path, answer, dtype="float32", records=3) -> Answers:
    signature = Signature((Field("n", "int64"),), (Field("y", dtype),))
    rows = [({"n": np.array(i)}, {"y": np.array(i, dtype)}) for i in range(records)]
    golden.write(tmp_path, signature, rows)
    model = Answers(answer)
    package = Package(tmp_path, Manifest("m", "python", signature, handler="h.py"), {}, "", {})
    assert golden.check(package, model) == records
    return model


def test_runs_together_and_one_by_one(tmp_path) -> None:
    model = checked(tmp_path, lambda n, size: Done({"y": np.array(n, np.float32)}))
    assert model.batches == [3, 1, 1, 1]


def test_a_model_that_is_right_only_alone_is_caught(tmp_path) -> None:
    with pytest.raises(GoldenMismatch, match=r"line 1: outputs.y.*in a batch of 3"):
        checked(tmp_path, lambda n, size: Done({"y": np.array(n + (size > 1), np.float32)}))


def test_a_model_that_is_right_only_in_company_is_caught(tmp_path) -> None:
    with pytest.raises(GoldenMismatch, match=r"line 1: outputs.y.*run alone"):
        checked(tmp_path, lambda n, size: Done({"y": np.array(n + (size == 1), np.float32)}))


def test_tolerance_is_for_floats_only(tmp_path) -> None:
    checked(tmp_path, lambda n, size: Done({"y": np.array(n + 1e-6, np.float32)}))
    with pytest.raises(GoldenMismatch):
        checked(tmp_path, lambda n, size: Done({"y": np.array(n + 1)}), dtype="int64")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_is_not_near_a_number(tmp_path, wrong) -> None:
    with pytest.raises(GoldenMismatch, match=r"3 of 3|1 of 1"):
        checked(tmp_path, lambda n, size: Done({"y": np.array(wrong, np.float32)}))


def test_a_failed_record_is_a_mismatch(tmp_path) -> None:
    with pytest.raises(GoldenMismatch, match=r"line 1: run in a batch of 3, the model answered"):
        checked(tmp_path, lambda n, size: Failed("no", "never"))
