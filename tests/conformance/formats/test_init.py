"""headrace models init: what it finds out by itself, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from headrace.errors import CodeNotAllowed, PackageError
from headrace.inprocess import load
from headrace.registry.from_module import package_module
from headrace.registry.init_package import init_package
from headrace.signature import Field, Signature
from tests.conformance.formats import models

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")


def test_reads_the_exported_signature(pool_pt2, tmp_path) -> None:
    package = init_package(pool_pt2, models.example(), tmp_path / "p")
    assert package.root == tmp_path / "p"
    assert package.manifest.name == "pool"
    assert package.signature == Signature(
        (Field("x", "float32", ("dim1", 4)), Field("mask", "float32", ("dim1",))),
        (Field("total", "float32", (3,)), Field("each", "float32", ("dim1", 3))),
    )
    assert len((tmp_path / "p" / "golden.jsonl").read_text().splitlines()) == 3


def test_positions_serve_where_names_are_missing(pool_pt2, tmp_path) -> None:
    columns = dict(zip(("arr_0", "arr_1"), models.example(6).values(), strict=True))
    package = init_package(pool_pt2, columns, tmp_path / "p", goldens=2)
    assert len((package.root / "golden.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"example": {"x": np.ones((2, 5, 4))}}, "example: has x; the model takes x, mask"),
        ({"example": {}}, "example: expected as many records"),
        (
            {"example": {"x": np.ones((2, 5, 4)), "mask": np.ones((3, 5))}},
            "example: expected as many records in each field",
        ),
        ({"example": {"x": np.ones((0, 5, 4)), "mask": np.ones((0, 5))}}, "example: expected"),
        ({"example": {"x": 3.0, "mask": 2.0}}, "example: x: has no leading dimension"),
        ({"example": {"x": np.ones((2, 5, 9)), "mask": np.ones((2, 5))}}, "example.x: expected sh"),
        ({"shapes": {"y": (1,)}}, "shape of y: the inputs are x, mask"),
        ({"shapes": {"x": ("tokens", 9)}}, "shape of x: the model has ['dim1', 4]"),
        ({"shapes": {"x": ("tokens",)}}, "shape of x: the model has ['dim1', 4]"),
        ({"pad": {"y": 0}}, "pad of y: the inputs are x, mask"),
        ({"outputs": ["a"]}, "outputs: the model names its outputs itself: total, each"),
        ({"name": "No Good"}, "model.toml: name: 'No Good' does not match"),
        ({"source": "nowhere.pt2"}, "nowhere.pt2: no such file"),
        ({"source": "weights.h5"}, "weights.h5: unknown kind of weights '.h5'"),
        ({"source": None}, "init: needs weights, a handler, or both"),
    ],
)
def test_refuses_by_name_and_leaves_nothing(change, complaint, pool_pt2, tmp_path) -> None:
    options = {"source": pool_pt2, "example": models.example(), **change}
    with pytest.raises(PackageError) as caught:
        init_package(**options, directory=tmp_path / "p")
    assert str(caught.value).startswith(complaint)
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites(pool_pt2, tmp_path) -> None:
    (tmp_path / "p").mkdir()
    with pytest.raises(PackageError, match="exists"):
        init_package(pool_pt2, models.example(), tmp_path / "p")


def test_torchscript_needs_trust_and_its_dimensions_are_seen(tmp_path) -> None:
    path = tmp_path / "M.Model 1.pt"
    inputs = tuple(map(torch.from_numpy, models.example().values()))
    torch.jit.trace(models.Pool().eval(), inputs, strict=False).save(path)
    with pytest.raises(CodeNotAllowed):
        init_package(path, models.example(), tmp_path / "p")
    path = path.rename(tmp_path / "m.pt")
    package = init_package(
        path, models.example(tokens=3), tmp_path / "p", allow_code=True,
        shapes={"x": ("t", 4), "mask": ("t",)},
    )  # fmt: skip
    # Three tokens and three classes: only a run with other sizes tells them apart.
    assert package.signature.outputs == (
        Field("total", "float32", (3,)),
        Field("each", "float32", ("t", 3)),
    )
    assert set(package.code) == {"m.pt"}


def test_a_state_dict_is_told_where_to_go(tmp_path) -> None:
    torch.save(models.Pool().state_dict(), tmp_path / "m.pt")
    with pytest.raises(PackageError, match="a state dict goes into safetensors with a handler"):
        init_package(tmp_path / "m.pt", models.example(), tmp_path / "p", allow_code=True)


HANDLER = """
import numpy as np

class Handler:
    def load(self, weights, device):
        self.words = weights.read_text().split() if weights else []

    def forward(self, records):
        return [
            {
                "count": len(r["text"].split()),
                "known": [word in self.words for word in r["text"].split()],
                "share": np.float32(0.5),
                "raw": r["text"].encode(),
                "info": {"text": r["text"]},
                "upper": r["text"].upper(),
            }
            for r in records
        ]
"""


def test_a_python_handler_is_watched(tmp_path) -> None:
    (tmp_path / "handler.py").write_text(HANDLER)
    (tmp_path / "words.txt").write_text("tea time")
    package = init_package(
        tmp_path / "words.txt", {"text": ["tea", "no time"]}, tmp_path / "p",
        handler=tmp_path / "handler.py", allow_code=True, name="words",
    )  # fmt: skip
    assert package.format == "python"
    assert package.signature == Signature(
        (Field("text", "string"),),
        (
            Field("count", "int64"),
            Field("known", "bool", ("known_0",)),
            Field("share", "float32"),
            Field("raw", "bytes"),
            Field("info", "json"),
            Field("upper", "string"),
        ),
    )
    with load(package.root, allow_code=True) as model:
        assert model("time for tea")["known"].tolist() == [True, False, True]


class Embed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.drop(self.table(ids))
        return vectors, vectors.sum((1, 2))


def test_a_module_goes_straight_into_a_package(tmp_path) -> None:
    module = Embed()
    module.drop.eval()
    ids = np.arange(12).reshape(3, 4) % 10
    package = package_module(
        module, {"ids": ids}, tmp_path / "Embed Words",
        shapes={"ids": ("tokens",)}, outputs=["vectors", "total"],
    )  # fmt: skip
    assert module.training
    assert not module.drop.training
    assert package.manifest.name == "embed-words"
    assert package.signature.outputs == (
        Field("vectors", "float32", ("tokens", 4)),
        Field("total", "float32"),
    )
    with load(package.root) as model:
        outcomes = model.many([[1], [2, 3, 4], [5]])
        assert [outcome.outputs["vectors"].shape for outcome in outcomes] == [
            (1, 4),
            (3, 4),
            (1, 4),
        ]


class Between(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, bias: float = 1.0) -> torch.Tensor:
        return self.linear(x) / scale + bias


PAIR = {"x": np.ones((2, 4), np.float32), "scale": np.full((2, 1), 2, np.float32)}


def test_inputs_of_a_module_may_have_other_names_than_its_arguments(tmp_path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5)).train()
    package = package_module(module, {"image": PAIR["x"]}, tmp_path / "one")
    assert module.training
    assert module[1].training
    assert [field.name for field in package.signature.inputs] == ["image"]
    with load(package.root) as model:
        got = model({"image": [1, 2, 3, 4]})["output"]
        want = module[0](torch.tensor([1.0, 2, 3, 4])).detach()
        np.testing.assert_allclose(got, want, rtol=1e-5)

    renamed = dict(zip(("pixels", "size"), PAIR.values(), strict=True))
    with load(package_module(Between(), renamed, tmp_path / "two").root) as model:
        small, large = model.many({"pixels": np.ones((2, 4)), "size": [[1.0], [100.0]]})
        assert small.outputs["output"] != pytest.approx(large.outputs["output"])
        assert large.outputs["output"] == pytest.approx([1, 1, 1], abs=0.1), "in their order"
    reverse = dict(reversed(PAIR.items()))
    with load(package_module(Between(), reverse, tmp_path / "three").root) as model:
        assert model({"x": [0, 0, 0, 0], "scale": [1]})["output"].shape == (3,), "by name"


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["x", "size"], "example: has x, size; forward of Between takes x, scale, bias=1.0"),
        (["x"], "example: has x; forward of Between takes"),
        (["pixels"], "example: has pixels; forward of Between takes"),
        (["a", "b", "c", "d"], "example: has a, b, c, d; forward of Between takes"),
        (["a.b", "c"], "example: a.b: is no name that an argument can have"),
        (["in", "out"], "example: in: is no name that an argument can have"),
    ],
)
def test_names_that_fit_no_argument_are_refused(names, complaint, tmp_path) -> None:
    with pytest.raises(PackageError) as caught:
        package_module(Between(), dict.fromkeys(names, PAIR["x"]), tmp_path / "p")
    assert str(caught.value).startswith(complaint)


DOUBLE = {"x": np.ones((2, 4)), "scale": np.ones((2, 1))}


def test_floats_of_another_size_than_the_module_are_named(tmp_path) -> None:
    with pytest.raises(PackageError) as caught:
        package_module(Between(), {"x": DOUBLE["x"], "scale": PAIR["scale"]}, tmp_path / "p")
    assert str(caught.value) == (
        "example: x: is float64, and the parameters of Between are float32; "
        "convert it, with .astype(numpy.float32)"
    )
    with pytest.raises(PackageError, match="numpy has no such dtype: take float32"):
        package_module(Between().bfloat16(), PAIR, tmp_path / "p")
    assert package_module(Between().double(), DOUBLE, tmp_path / "p").signature.inputs[0].dtype == (
        "float64"
    )


def test_a_module_that_converts_its_floats_is_left_to_it(tmp_path) -> None:
    class Converts(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.float())

    package = package_module(Converts(), {"x": DOUBLE["x"]}, tmp_path / "p")
    assert package.signature.inputs[0].dtype == "float64"


@pytest.mark.parametrize("format", ["torch-export", "torchscript", "safetensors"])
def test_so_they_are_for_a_model_file(format, tmp_path) -> None:
    if format == "torch-export":
        source, handler = tmp_path / "m.pt2", None
        batch = ({0: torch.export.Dim("batch")},)
        double = (torch.ones(2, 4, dtype=torch.float64),)
        program = torch.export.export(torch.nn.Linear(4, 3), double, dynamic_shapes=batch)
        torch.export.save(program, source)
    elif format == "torchscript":
        source, handler = tmp_path / "m.pt", None
        torch.jit.save(torch.jit.script(torch.nn.Linear(4, 3)), source)
    else:
        source, handler = tmp_path / "m.safetensors", tmp_path / "handler.py"
        safetensors.torch.save_file({"weight": torch.ones(3, 4)}, source)
        handler.write_text(
            "import torch\ndef build(weights, device):\n"
            "    return lambda input: torch.nn.functional.linear(input, weights['weight'])\n"
        )
    example = {"input": np.ones((2, 4))}
    with pytest.raises(PackageError, match=rf"input: is float64, .* of {source.name} are float32"):
        init_package(source, example, tmp_path / "p", handler=handler, allow_code=True)
    assert not (tmp_path / "p").exists()


def test_names_must_be_as_many_as_outputs(tmp_path) -> None:
    with pytest.raises(PackageError, match="outputs: 2 names for the 1 outputs"):
        package_module(
            models.Scale(), {"x": np.ones((2, 2), np.float32)}, tmp_path / "p", outputs=["a", "b"]
        )


def test_a_module_that_cannot_take_any_batch_says_so(tmp_path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, 2)

    with pytest.raises(PackageError, match="Fixed: torch cannot export it"):
        package_module(Fixed(), {"x": np.ones((3, 2), np.float32)}, tmp_path / "p")
    with pytest.raises(PackageError, match="needs two records"):
        package_module(models.Scale(), {"x": np.ones((1, 2), np.float32)}, tmp_path / "p")


def test_an_archive_without_a_batch_dimension_is_refused(tmp_path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(0)

    program = torch.export.export(Mean(), (torch.ones(3, 4),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(PackageError, match="output: the first dimension is 4, the batch is 3"):
        init_package(tmp_path / "m.pt2", {"x": np.ones((3, 4), np.float32)}, tmp_path / "p")
