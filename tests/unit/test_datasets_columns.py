"""Columns of files as a model's inputs, and its outputs as columns."""

import numpy as np
import pyarrow as pa
import pytest

from headrace.datasets.arrays import arrow_type, to_column, to_values
from headrace.datasets.columns import choose, convert, typed
from headrace.datasets.formats import Format
from headrace.datasets.rows import numbered
from headrace.errors import InvalidInput
from headrace.signature import Field, Signature

PIXELS = Field("image", "float32", (2, 2), finite=True)
TOKENS = Field("tokens", "int64", ("length",), pad=0)
MASK = Field("mask", "bool", ("length",), pad=0)
SCORE = Field("score", "float32")
DIGITS = Signature((PIXELS,), (SCORE,))


def converted(signature, table, first=0, **asked):
    columns = choose(signature, table.column_names, "in.parquet", **asked)
    typed(signature, columns, table.schema, Format.PARQUET, "in.parquet")
    return convert(signature, columns, numbered(table, first))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.list_(pa.float64())),
        pa.list_(pa.list_(pa.float32(), 2), 2),
        pa.fixed_shape_tensor(pa.float32(), (2, 2)),
    ],
    ids=str,
)
def test_a_tensor_is_a_nested_list_of_any_kind(kind) -> None:
    rows = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = pa.array([[0, 1, 2, 3], [4, 5, 6, 7]], kind.storage_type)
        column = pa.ExtensionArray.from_storage(kind, storage)
    else:
        column = pa.array(rows, kind)
    values = to_values(PIXELS, column)
    assert values.dtype == np.float32
    assert values.tolist() == rows


def test_a_flat_list_fills_dimensions_that_are_fixed() -> None:
    column = pa.array([[0, 1, 2, 3]], pa.list_(pa.int8()))
    assert to_values(PIXELS, column).tolist() == [[[0, 1], [2, 3]]]
    with pytest.raises(InvalidInput, match=r"expected shape \[2, 2\].*got \[3\]"):
        to_values(PIXELS, pa.array([[0, 1, 2]], pa.list_(pa.int8())))


def test_a_slice_of_a_column_is_only_that() -> None:
    column = pa.array([[9, 9, 9, 9], [0, 1, 2, 3], [9, 9, 9, 9]], pa.list_(pa.float32(), 4))
    assert to_values(PIXELS, column.slice(1, 1)).tolist() == [[[0, 1], [2, 3]]]


def test_many_columns_are_one_tensor_side_by_side() -> None:
    table = pa.table({"p0": [0, 4], "p1": [1, 5], "p2": [2, 6], "p3": [3, 7], "label": [8, 9]})
    records = converted(DIGITS, table, inputs={"image": "p*"}, carry=["label"])
    assert records.inputs["image"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert records.kept.to_pydict() == {"label": [8, 9]}
    with pytest.raises(InvalidInput, match=r"in.parquet.*no column 'x\*' for image: float32"):
        converted(DIGITS, table, inputs={"image": "x*"})


def test_a_bad_row_stands_alone_with_its_reason() -> None:
    rows = [[[float(i)] * 2] * 2 for i in range(100)]
    rows[13] = None
    rows[37] = [[1.0, 2.0]]
    rows[38] = [[1.0, float("nan")], [1.0, 1.0]]
    rows[99] = [[1.0, None], [1.0, 1.0]]
    table = pa.table({"key": [f"k{i}" for i in range(100)], "image": rows})
    records = converted(DIGITS, table, first=1000, id="key")
    assert len(records) == 96
    assert records.numbers.tolist() == [1000 + i for i in range(100) if i not in (13, 37, 38, 99)]
    assert records.kept["key"].to_pylist() == [f"k{n - 1000}" for n in records.numbers]
    assert records.inputs["image"][:, 0, 0].tolist() == (records.numbers - 1000).tolist()
    assert [(r.number, r.id, r.message) for r in records.rejects] == [
        (1013, "k13", "image: missing; expected image: float32[2, 2]"),
        (1037, "k37", "image: expected shape [2, 2] for one record, got [1, 2]"),
        (1038, "k38", "image[0]: nan at [0, 1]; image takes finite numbers only"),
        (1099, "k99", "image: a value is missing"),
    ]


def test_rows_that_differ_in_length_stay_apart() -> None:
    signature = Signature((TOKENS, MASK), (SCORE,))
    table = pa.table(
        {
            "tokens": [[1, 2, 3], [4], [], [5, 6]],
            "mask": [[True, True, False], [True], [], [True]],
        }
    )
    records = converted(signature, table)
    assert [row.tolist() for row in records.inputs["tokens"]] == [[1, 2, 3], [4], []]
    assert records.record(0)["mask"].tolist() == [True, True, False]
    assert records.record(2)["tokens"].shape == (0,)
    [reject] = records.rejects
    assert (reject.number, reject.message) == (
        3,
        "mask: dimension 'length' differs from another field's",
    )
    signature.check(records.record(1))


def test_plain_values_and_json() -> None:
    signature = Signature(
        (Field("text", "string"), Field("data", "bytes"), Field("extra", "json")), (SCORE,)
    )
    table = pa.table({"text": ["a"], "data": [b"\x00\xff"], "extra": ['{"b": [1, null]}']})
    assert converted(signature, table).record(0) == {
        "text": "a",
        "data": b"\x00\xff",
        "extra": {"b": [1, None]},
    }
    coded = table.set_column(1, "data", pa.array(["AP8="]))
    assert converted(signature, coded).record(0)["data"] == b"\x00\xff"
    spoilt = table.set_column(1, "data", pa.array(["?"])).set_column(2, "extra", pa.array(["{"]))
    assert "expected bytes, as base64" in converted(signature, spoilt).rejects[0].message


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (pa.string(), None),
        (pa.list_(pa.int64()), None),
        (pa.float32(), r"expected shape \[2, 2\] for one record, got \[\]"),
        (pa.list_(pa.string()), "expected numbers, got a column of string"),
        (pa.list_(pa.list_(pa.list_(pa.float32()))), r"expected shape \[2, 2\]"),
        (pa.timestamp("s"), "expected numbers"),
    ],
    ids=str,
)
def test_types_are_checked_before_there_is_a_row(kind, problem) -> None:
    schema = pa.schema([pa.field("image", kind)])
    columns = choose(DIGITS, ["image"], "in.parquet")
    if problem is None:
        typed(DIGITS, columns, schema, Format.PARQUET, "in.parquet")
    else:
        with pytest.raises(InvalidInput, match=f"in.parquet: image: {problem}"):
            typed(DIGITS, columns, schema, Format.PARQUET, "in.parquet")


def test_what_cannot_be_chosen() -> None:
    for asked, problem in [
        ({"inputs": {"picture": "image"}}, "inputs.picture: the model has image"),
        ({"id": "key"}, "has no column 'key'; it has image, score"),
        ({"carry": ["score"]}, "score: is an output"),
    ]:
        with pytest.raises(InvalidInput, match=problem):
            choose(DIGITS, ["image", "score"], "in.parquet", **asked)
    text = Signature((Field("text", "string"),), (SCORE,))
    with pytest.raises(InvalidInput, match="text: string is one column, not a, b"):
        choose(text, ["a", "b"], "in.parquet", inputs={"text": ["a", "b"]})


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), ("n",), ("n", 2), (2, "n")])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16"])
def test_outputs_come_back_as_they_were(shape, dtype) -> None:
    field = Field("y", dtype, shape)
    sizes = [2, 0, 5] if "n" in shape else [2, 2]
    rows = []
    for seed, size in enumerate(sizes):
        of_row = tuple(size if dim == "n" else dim for dim in shape)
        count = int(np.prod(of_row))
        rows.append((np.arange(count) + seed).reshape(of_row).astype(dtype))
    column = to_column(field, rows)
    column.validate(full=True)
    assert column.type == arrow_type(field)
    assert column.to_pylist() == [row.tolist() for row in rows]
    assert to_column(field, []).to_pylist() == []
    if "n" not in shape:
        assert to_column(field, np.stack(rows)).equals(column)


def test_complex_outputs_have_no_column() -> None:
    with pytest.raises(InvalidInput, match="complex64 has no column type"):
        arrow_type(Field("y", "complex64"))
