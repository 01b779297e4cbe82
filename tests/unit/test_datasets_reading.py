"""How files are read: decided once, and kept as text."""

import json

import pyarrow as pa
import pytest

from headrace.dataset import Spec
from headrace.datasets.arrays import JSON, to_values
from headrace.datasets.reading import Reading, reading_of
from headrace.errors import InvalidInput
from headrace.signature import Field, Signature

MODEL = Signature(
    (Field("image", "bytes"), Field("any", "json"), Field("x", "float32", (2,))),
    (Field("y", "float32"),),
)
FOUND = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("raw", pa.binary()),
        pa.field("any", pa.string(), metadata=JSON),
        pa.field("x0", pa.float16()),
        pa.field("x1", pa.dictionary(pa.int8(), pa.float64())),
        pa.field("when", pa.timestamp("us", "Europe/Berlin")),
        pa.field("tensor", pa.fixed_shape_tensor(pa.float32(), (2, 2))),
    ]
)
SPEC = Spec("in", "out", {"image": ("path",), "x": ("x?",)}, id="key", carry=("when", "tensor"))


def test_a_table_can_keep_it() -> None:
    reading = reading_of(MODEL, SPEC, FOUND, "in.parquet")
    assert reading.columns.inputs == {"image": ("path",), "any": ("any",), "x": ("x0", "x1")}
    again = Reading.from_json(json.loads(json.dumps(reading.to_json())))
    assert again == reading
    assert again.schema.equals(reading.schema, check_metadata=True)
    assert again.schema.names == reading.columns.names


@pytest.mark.parametrize(
    ("inputs", "fetch", "problem"),
    [
        ({"image": ("raw",)}, ("image",), "in.parquet: image: expected paths to fetch, got binary"),
        ({"image": ("path",)}, ("x",), "fetch.x: is no input of bytes"),
        ({"image": ("path",)}, ("y",), "fetch.y: is no input of bytes"),
        ({"image": ("key",)}, (), "in.parquet: image: expected bytes, got a column of int64"),
        ({"image": ("absent",)}, (), "in.parquet: has no column 'absent' for image"),
    ],
)
def test_what_the_model_cannot_take_is_named(inputs, fetch, problem) -> None:
    spec = Spec("in", "out", {"x": ("x?",)} | inputs, fetch=fetch)
    with pytest.raises(InvalidInput, match=problem):
        reading_of(MODEL, spec, FOUND, "in.parquet")


def test_lists_in_text_may_hold_what_strict_json_has_no_words_for() -> None:
    cells = pa.array(["[1, NaN]", " [Infinity,2.5]\n"])
    field = Field("x", "float32", (2,))
    assert str(to_values(field, cells).tolist()) == "[[1.0, nan], [inf, 2.5]]"
    with pytest.raises(InvalidInput, match=r"not a JSON list of numbers: '\[1'"):
        to_values(field, pa.array(["[1"]))
