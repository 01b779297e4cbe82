"""Validation: what is accepted comes back exact, what is wrong is refused with its path."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace import payload
from headrace.errors import InvalidInput
from headrace.signature import PLAIN_DTYPES, TENSOR_DTYPES, Field, Signature

SIZES = st.fixed_dictionaries({name: st.integers(0, 4) for name in "abc"})
DIMS = st.lists(st.one_of(st.integers(0, 3), st.sampled_from("abc")), max_size=3).map(tuple)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=5))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def fields(draw, name: str):
    dtype = draw(st.sampled_from(sorted(TENSOR_DTYPES | PLAIN_DTYPES)))
    shape = draw(DIMS) if dtype in TENSOR_DTYPES else ()
    varies = any(isinstance(dim, str) for dim in shape)
    return Field(name, dtype, shape, draw(st.none() | st.just(0.0)) if varies else None)


@st.composite
def signatures(draw):
    count = draw(st.integers(1, 4))
    return Signature(tuple(draw(fields(f"in{i}")) for i in range(count)), ())


@st.composite
def records(draw, signature: Signature, sizes: dict[str, int] | None = None):
    sizes = sizes or draw(SIZES)
    return {field.name: draw(values(field, sizes)) for field in signature.inputs}


def values(field: Field, sizes: dict[str, int]):
    if field.dtype == "bytes":
        return st.binary(max_size=10)
    if field.dtype == "string":
        return st.text(max_size=10)
    if field.dtype == "json":
        return JSON
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in field.shape)
    return hnp.arrays(field.dtype, shape)


def same(left, right) -> bool:
    if isinstance(left, np.ndarray):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    return left == right and type(left) is type(right)


@given(st.data())
def test_a_good_record_comes_back_exact_through_the_payload(data) -> None:
    signature = data.draw(signatures())
    record = data.draw(records(signature))
    checked = signature.check(record)
    decoded = payload.decode(payload.encode(checked))
    assert list(checked) == list(decoded) == [field.name for field in signature.inputs]
    for name, value in record.items():
        assert same(checked[name], value)
        assert same(decoded[name], value)
    again = signature.check(decoded)
    assert all(same(again[name], checked[name]) for name in record)
    assert signature.bucket(again) == signature.bucket(checked)


@given(st.data())
def test_any_memory_layout_is_accepted(data) -> None:
    field = Field("x", "int32", ("a", "b"))
    array = data.draw(hnp.arrays(np.int32, (3, 4)))
    for view in (
        array.T,
        array[::2],
        array[:, ::-1],
        np.asfortranarray(array),
        array.astype(">i4"),
    ):
        got = field.check(view, "x")
        assert got.flags.c_contiguous
        assert got.dtype == np.dtype(np.int32)
        np.testing.assert_array_equal(got, view)
        np.testing.assert_array_equal(payload.decode(payload.encode({"x": view}))["x"], view)


@given(st.data())
def test_a_missing_or_unknown_field_is_named(data) -> None:
    signature = data.draw(signatures())
    record = data.draw(records(signature))
    gone = data.draw(st.sampled_from(sorted(record)))
    with pytest.raises(InvalidInput) as caught:
        signature.check({name: value for name, value in record.items() if name != gone})
    assert caught.value.field == f"inputs.{gone}"
    with pytest.raises(InvalidInput) as caught:
        signature.check({**record, "extra": 1})
    assert caught.value.field == "inputs.extra"


@given(st.data())
def test_a_wrong_shape_is_refused(data) -> None:
    shape = data.draw(DIMS)
    field = Field("x", "float32", shape)
    sizes = data.draw(SIZES)
    right = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)
    wrong = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    fits = len(wrong) == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, wrong, strict=True)
    )
    assert field.check(np.zeros(right, np.float32), "x").shape == right
    if fits:
        assert field.check(np.zeros(wrong, np.float32), "x").shape == wrong
    else:
        with pytest.raises(InvalidInput, match="expected shape"):
            field.check(np.zeros(wrong, np.float32), "x")


def test_one_name_is_one_size() -> None:
    signature = Signature((Field("x", "int8", ("n", 2)), Field("m", "int8", ("n",))), ())
    with pytest.raises(InvalidInput) as caught:
        signature.check({"x": np.zeros((3, 2), np.int8), "m": np.zeros(4, np.int8)})
    assert caught.value.field == "inputs.m"
    assert "'n' is 4 here and 3 elsewhere" in str(caught.value)


@given(hnp.arrays(st.sampled_from(["int64", "uint64", "int8", "uint16"]), 3),
       st.sampled_from(["int8", "uint8", "int32", "uint64", "int64"]))  # fmt: skip
def test_whole_numbers_are_cast_without_loss_or_refused(array, dtype) -> None:
    info = np.iinfo(dtype)
    if all(info.min <= int(value) <= info.max for value in array):
        got = Field("x", dtype, (3,)).check(array, "x")
        assert [int(value) for value in got] == [int(value) for value in array]
    else:
        with pytest.raises(InvalidInput, match="do not fit"):
            Field("x", dtype, (3,)).check(array, "x")


@given(hnp.arrays(np.float64, 3), st.sampled_from(["float16", "float32"]))
def test_floats_are_rounded_but_never_overflow(array, dtype) -> None:
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype)
    if np.array_equal(np.isfinite(rounded), np.isfinite(array)):
        np.testing.assert_array_equal(Field("x", dtype, (3,)).check(array, "x"), rounded)
    else:
        with pytest.raises(InvalidInput, match="do not fit"):
            Field("x", dtype, (3,)).check(array, "x")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 1.0),
        ("int32", [1.5]),
        ("float32", 1 + 2j),
        ("float32", "1"),
        ("float32", None),
        ("float32", [[1], [2, 3]]),
        ("float32", {"a": 1}),
        ("float32", np.array([object()])),
        ("bool", 1),
        ("bytes", "text"),
        ("bytes", [1, 2]),
        ("string", b"bytes"),
        ("json", float("nan")),
        ("json", {1, 2}),
        ("json", np.ones(1)),
    ],
)
def test_a_wrong_kind_is_refused(dtype, value) -> None:
    with pytest.raises(InvalidInput) as caught:
        Field("x", dtype).check(value, "inputs.x")
    assert caught.value.field == "inputs.x"


@given(st.data())
def test_columns_are_the_same_as_records(data) -> None:
    signature = data.draw(signatures())
    sizes = data.draw(SIZES)
    rows = data.draw(st.lists(records(signature, sizes), min_size=1, max_size=4))
    columns = {
        field.name: np.stack([row[field.name] for row in rows])
        if field.is_tensor
        else [row[field.name] for row in rows]
        for field in signature.inputs
    }
    count, checked = signature.check_columns(columns)
    listed = list(checked)
    assert count == len(listed) == len(rows)
    for got, row in zip(listed, rows, strict=True):
        want = signature.check(row)
        assert all(same(np.asarray(got[n]) if isinstance(want[n], np.ndarray) else got[n], want[n])
                   for n in want)  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"x": 1.0, "t": []}, "inputs.x"),
        ({"x": np.zeros((2, 3)), "t": ["a"]}, "inputs"),
        ({"x": np.zeros((2, 4)), "t": ["a", "b"]}, "inputs.x"),
        ({"x": np.zeros((2, 3)), "t": ["a", b"b"]}, "inputs.t[1]"),
        ({"x": np.zeros((2, 3)), "t": "ab"}, "inputs.t"),
        ({"x": np.zeros((2, 3))}, "inputs.t"),
        (np.zeros((2, 3)), "inputs"),
    ],
)
def test_wrong_columns_are_named(columns, path) -> None:
    signature = Signature((Field("x", "float64", (3,)), Field("t", "string")), ())
    with pytest.raises(InvalidInput) as caught:
        signature.check_columns(columns)
    assert caught.value.field == path


@given(st.data())
def test_what_shares_a_bucket_can_be_stacked_once_padded(data) -> None:
    signature = data.draw(signatures())
    rows = [signature.check(row) for row in data.draw(st.lists(records(signature), min_size=2))]
    for row in rows[1:]:
        stackable = all(
            field.pad is not None or row[field.name].shape == rows[0][field.name].shape
            for field in signature.inputs
            if field.is_tensor
        )
        together = signature.bucket(row) == signature.bucket(rows[0])
        assume(all(isinstance(dim, str) for f in signature.inputs if f.pad for dim in f.shape))
        assert together == stackable
        assert hash(signature.bucket(row)) is not None


@given(st.data())
def test_length_is_the_longest_padded_dimension(data) -> None:
    signature = data.draw(signatures())
    record = signature.check(data.draw(records(signature)))
    sizes = signature.sizes(record)
    padded = [
        sizes[dim]
        for field in signature.inputs
        if field.pad is not None
        for dim in field.shape
        if isinstance(dim, str)
    ]
    assert signature.length(record) == max(padded, default=1)


NUMBERS = hnp.arrays(
    st.sampled_from(["float16", "float32", "float64", "complex64"]),
    st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 3)),
)


@given(NUMBERS)
def test_finite_names_the_first_nan_or_infinity(column) -> None:
    loose = Field("x", column.dtype.name, (2, "n"))
    strict = Signature((replace(loose, finite=True), Field("y", "float64")), ())
    columns = {"x": column, "y": np.full(len(column), np.nan)}
    bad = [tuple(map(int, index)) for index in np.argwhere(~np.isfinite(column))]
    Signature((loose, *strict.inputs[1:]), ()).check_columns(columns)
    if not bad:
        assert strict.check_columns(columns)[0] == len(column)
        return
    row, *index = bad[0]
    with pytest.raises(InvalidInput) as caught:
        strict.check_columns(columns)
    assert caught.value.field == f"inputs.x[{row}]"
    assert f" at {index}; x takes finite numbers only" in caught.value.problem
    with pytest.raises(InvalidInput) as caught:
        strict.check({"x": column[row], "y": np.nan}, f"inputs[{row}]")
    assert caught.value.field == f"inputs[{row}].x"
    assert f" at {index}; x takes finite numbers only" in caught.value.problem


def test_a_scalar_that_is_not_finite_is_named() -> None:
    signature = Signature((Field("x", "float32", finite=True),), ())
    with pytest.raises(InvalidInput, match=r"^inputs\.x: nan; x takes finite numbers only$"):
        signature.check(float("nan"))
    with pytest.raises(InvalidInput, match=r"^inputs\.x\[1\]: -inf; x takes finite"):
        signature.check_columns([1.0, -np.inf])


def test_a_bare_value_serves_one_input() -> None:
    signature = Signature((Field("x", "float32", (2,)),), ())
    np.testing.assert_array_equal(signature.check([1, 2])["x"], np.array([1, 2], np.float32))
    two = Signature((Field("x", "float32"), Field("y", "float32")), ())
    with pytest.raises(InvalidInput, match="expected a mapping with the fields x, y"):
        two.check(3.0)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x81", b"\xd4\x07\x00"])
def test_foreign_bytes_are_no_payload(data) -> None:
    with pytest.raises(ValueError, match=r"."):
        payload.decode(data)


@given(st.binary(max_size=40))
def test_random_bytes_decode_or_raise_value_error(data) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(payload.decode(data), dict)
