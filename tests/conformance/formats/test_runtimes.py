"""Each format: same numbers alone and in a batch, and a wrong answer is never passed on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from headrace import runtimes
from headrace.errors import BadOutput, PackageError
from headrace.job import Done, Failed, Retry
from headrace.registry.init_package import init_package
from headrace.registry.package import read_package
from headrace.runtimes import tensors
from headrace.runtimes.python import PythonModel
from headrace.signature import Field, Signature
from tests.conformance.formats import models

BUILD = """
import torch

class Pool(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("offset", torch.ones(3))

    def forward(self, x, mask):
        each = (self.linear(x) + self.offset * 2.0) * mask.unsqueeze(-1)
        return {"total": each.sum(1), "each": each}

def build(weights, device):
    model = Pool()
    model.load_state_dict(weights)
    return model
"""
HINTS = {"shapes": {"x": ("tokens", 4), "mask": ("tokens",)}, "pad": {"x": 0, "mask": 0}}


pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def packages(tmp_path_factory, pool_pt2):
    """The same model in each torch format."""
    root = tmp_path_factory.mktemp("formats")
    module = models.Pool().eval()
    static = root / "static.pt2"
    models.export_pool(str(static), batch=4)
    safetensors.torch.save_file(module.state_dict(), root / "pool.safetensors")
    (root / "handler.py").write_text(BUILD)
    inputs = tuple(map(torch.from_numpy, models.example().values()))
    torch.jit.trace(module, inputs, strict=False).save(root / "pool.pt")
    return {
        "torch-export": init_package(pool_pt2, models.example(), root / "1", **HINTS),
        "static batch": init_package(static, models.example(4), root / "2", **HINTS),
        "torchscript": init_package(
            root / "pool.pt", models.example(), root / "3", allow_code=True, **HINTS
        ),
        "safetensors": init_package(
            root / "pool.safetensors",
            models.example(),
            root / "4",
            handler=root / "handler.py",
            allow_code=True,
            **HINTS,
        ),
    }


KINDS = ["torch-export", "static batch", "torchscript", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_signature_and_numbers(kind, packages) -> None:
    package = packages[kind]
    assert package.signature == models.SIGNATURE
    model = runtimes.load(package, "cpu", frozenset(package.code.values()))
    assert model.memory == 4 * (12 + 3 + 3) + (kind in KINDS[:2]) * 4
    records = [models.record(tokens, seed) for seed, tokens in enumerate([3, 7, 1, 2, 5])]
    for batch in ([records[0]], records, records[:4]):
        outcomes = model.infer(batch)
        assert len(outcomes) == len(batch)
        for record, outcome in zip(batch, outcomes, strict=True):
            assert isinstance(outcome, Done)
            checked = package.signature.check_output(outcome.outputs)
            for name, want in models.expected(record).items():
                assert checked[name].shape == want.shape
                np.testing.assert_allclose(checked[name], want, rtol=1e-4, atol=1e-6)
    assert list(model.infer([])) == []
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.infer(records)


def test_the_exported_range_is_kept(packages) -> None:
    package = packages["torch-export"]
    model = runtimes.load(package, "cpu", frozenset())
    with pytest.raises(AssertionError, match="<= 64"):
        model.infer([models.record(65)])


def test_unknown_device(packages) -> None:
    for device in ("cuda:7", "abacus"):
        with pytest.raises(PackageError, match=f"device {device}: cannot be used"):
            runtimes.load(packages["torch-export"], device, frozenset())


def model_of(call, *outputs: Field, batch: int | None = None) -> tensors.TensorModel:
    signature = Signature((Field("x", "float32", ("n",), 0.0),), outputs)
    return tensors.TensorModel(call, signature, torch.device("cpu"), 0, batch)


ROWS = [{"x": np.arange(n, dtype=np.float32)} for n in (1, 3)]
Y = Field("y", "float32", ("n",))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda x: x[:-1], "returned 1 rows for 2 records"),
        (lambda x: torch.cat([x, x]), "returned 4 rows for 2 records"),
        (lambda x: x.sum(), "returned a scalar for 2 records"),
        (lambda x: (x, x), "returned 2 outputs"),
        (lambda x: {"z": x}, "returned the outputs z; its signature has y"),
        (lambda x: {"y": x, "z": x}, "returned the outputs y, z"),
        (lambda x: "x", "returned a str"),
        (lambda x: [None], r"outputs.y: expected a tensor, got a NoneType"),
        (lambda x: x.double(), "expected float32, the model returned float64"),
        (lambda x: x[..., None], r"expected y: float32\[n\] for one record"),
        (lambda x: x[:, :2], "dimension 'n' went in as 3 and came back as 2"),
    ],
)
def test_a_wrong_answer_is_an_error_and_never_a_shift(answer, complaint) -> None:
    with pytest.raises(BadOutput, match=complaint):
        model_of(lambda inputs: answer(inputs["x"]), Y).infer(ROWS)


def test_a_nan_fails_its_record_alone_where_the_signature_forbids_it() -> None:
    rows = [{"x": np.array(row, np.float32)} for row in ([1], [1, -1, 2], [2, 3])]
    # The padding gives a NaN too, which is cut away.
    root = model_of(lambda inputs: (inputs["x"] / inputs["x"].abs()).sqrt(), Y).infer(rows)
    assert [np.isnan(outcome.outputs["y"]).any() for outcome in root] == [False, True, False]
    strict = model_of(
        lambda inputs: (inputs["x"] / inputs["x"].abs()).sqrt(), replace(Y, finite=True)
    )
    first, bad, last = strict.infer(rows)
    assert isinstance(first, Done)
    assert isinstance(last, Done)
    assert bad == Failed("bad_output", "outputs.y: nan at [1]; y takes finite numbers only")


@pytest.mark.parametrize("answer", [lambda x: x, lambda x: [x], lambda x: {"y": x}])
def test_a_tensor_a_sequence_and_a_mapping_serve(answer) -> None:
    outcomes = model_of(lambda inputs: answer(inputs["x"]), Y).infer(ROWS)
    for row, outcome in zip(ROWS, outcomes, strict=True):
        np.testing.assert_array_equal(outcome.outputs["y"], row["x"])


def test_a_static_batch_is_filled_up_and_cut() -> None:
    seen = []

    def call(inputs):
        seen.append(tuple(inputs["x"].shape))
        return inputs["x"]

    rows = [{"x": np.array([n], np.float32)} for n in range(5)]
    outcomes = model_of(call, Y, batch=2).infer(rows)
    assert [outcome.outputs["y"][0] for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert seen == [(2, 1)] * 3


def test_padding_is_the_fields_value_and_rows_may_be_read_only() -> None:
    field = Field("x", "int32", ("n",), -7.0)
    values = [np.frombuffer(np.arange(n, dtype=np.int32).tobytes(), np.int32) for n in (2, 3)]
    batch = tensors.collated([field], [{"x": value} for value in values])
    np.testing.assert_array_equal(batch.arrays["x"], [[0, 1, -7], [0, 1, 2]])
    assert batch.sizes["n"].tolist() == [2, 3]
    tensors.to_device(batch.arrays, torch.device("cpu"))["x"][0, 0] = 5


def test_bfloat16_comes_back_as_float32() -> None:
    outcomes = model_of(lambda inputs: inputs["x"].bfloat16(), Y).infer(ROWS)
    assert outcomes[1].outputs["y"].dtype == np.float32


class Handler:
    def __init__(self, answers) -> None:
        self.answers = answers

    def forward(self, records):
        return self.answers(records)


LABEL = Signature((Field("text", "string"),), (Field("label", "string"), Field("p", "float32")))


def test_python_outcomes_are_per_record() -> None:
    answers = [
        {"label": "a", "p": 0.5},
        Done({"label": "b", "p": np.float64(0.25)}),
        Retry(3.0),
        Failed("too_long", "no"),
        {"label": 3, "p": 0.5},
        {"label": "c"},
        None,
    ]
    got = PythonModel(Handler(lambda records: answers), LABEL).infer([{"text": "x"}] * 7)
    assert got[0].outputs == {"label": "a", "p": np.float32(0.5)}
    assert got[1].outputs["p"].dtype == np.float32
    assert got[2:4] == answers[2:4]
    assert [(outcome.code, outcome.message) for outcome in got[4:]] == [
        ("bad_output", "outputs[4].label: expected a string, got int"),
        ("bad_output", "outputs[5].p: missing; expected p: float32[]"),
        ("bad_output", "outputs[6]: expected a mapping of outputs, got NoneType"),
    ]


@pytest.mark.parametrize("answers", [[], [1, 2, 3], None, "ab", iter([1, 2])])
def test_python_answers_must_be_as_many_as_records(answers) -> None:
    with pytest.raises(BadOutput):
        PythonModel(Handler(lambda records: answers), LABEL).infer([{"text": "x"}] * 2)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = ", "handler.py: does not import .SyntaxError"),
        ("import nothing_like_this", "handler.py: does not import .ModuleNotFoundError"),
        ("x = 1", "handler.py: has no class Handler"),
        ("class Handler: pass", "handler.py: has no class Handler"),
    ],
)
def test_a_broken_handler_is_named(source, complaint, tmp_path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text(source)
    with pytest.raises(PackageError, match=complaint):
        init_package(None, {"n": [1]}, tmp_path / "p", handler=handler, allow_code=True)
    assert not (tmp_path / "p").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["handler.py"]


def test_python_models_need_no_torch(tmp_path) -> None:
    import subprocess
    import sys

    handler = tmp_path / "handler.py"
    handler.write_text("class Handler:\n    def forward(self, records): return records\n")
    package = init_package(None, {"n": [1]}, tmp_path / "p", handler=handler, allow_code=True)
    assert read_package(package.root).signature.outputs == (Field("n", "int64"),)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from headrace.inprocess import load\n"
        f"print(load({str(package.root)!r}, allow_code=True)(4))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'n': array(4)}\n"
