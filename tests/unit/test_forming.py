"""Batches of a window: each row once, within bounds, neighbours in length; and back in place."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headrace.datasets.columns import Records
from headrace.registry.manifest import Batching
from headrace.runtimes.collated import Answer, collate
from headrace.signature import Field, Signature
from workers.forming import formed
from workers.window import Window, as_slice

X, MASK = Field("x", "int64", ("n",), 0.0), Field("k", "int64", ("n",), 0.0)
PADDED = Signature((X, MASK), (Field("sum", "int64"), Field("each", "int64", ("n",))))
FREE_SHAPE = Signature((Field("x", "int64", ("m", "n")),), PADDED.outputs)

lengths = st.lists(st.integers(0, 12), max_size=40)


def window_of(sizes: list[int]) -> dict[str, list[np.ndarray]]:
    return {name: [np.arange(size) for size in sizes] for name in ("x", "k")}


@given(lengths, st.integers(1, 9), st.none() | st.integers(1, 40), st.none() | st.integers(1, 40))
def test_each_row_once_and_within_bounds(sizes, records, tokens, ceiling) -> None:
    bounds = Batching(records, tokens)
    made = list(formed(PADDED, bounds, window_of(sizes), np.arange(len(sizes)), ceiling))
    assert sorted(row for rows, _ in made for row in rows) == list(range(len(sizes)))
    for rows, told in made:
        assert told.tolist() == [sizes[row] for row in rows]
        assert len(rows) <= records
        padded = len(rows) * max(told)
        assert len(rows) == 1 or padded <= min(tokens or padded, ceiling or padded)
    longest = [max(told) for _, told in made]
    assert longest == sorted(longest)  # neighbours in length


@given(lengths)
def test_without_padding_only_equal_shapes_meet(sizes) -> None:
    inputs = {"x": [np.zeros((size % 3, size % 2), np.int64) for size in sizes]}
    made = list(formed(FREE_SHAPE, Batching(4), inputs, np.arange(len(sizes))))
    assert sorted(row for rows, _ in made for row in rows) == list(range(len(sizes)))
    for rows, _ in made:
        assert len({inputs["x"][row].shape for row in rows}) == 1
        assert list(rows) == sorted(rows)


def test_rows_of_one_shape_follow_each_other_as_they_are() -> None:
    flat = Signature((Field("x", "float32", (3,)),), ())
    inputs = {"x": np.zeros((10, 3), np.float32)}
    made = [rows for rows, _ in formed(flat, Batching(4), inputs, np.arange(10))]
    assert [as_slice(rows) for rows in made] == [slice(0, 4), slice(4, 8), slice(8, 10)]


@given(lengths, st.integers(1, 9), st.randoms())
def test_results_come_back_in_place(sizes, records, random) -> None:
    inputs = window_of(sizes)
    rows = Records(inputs, pa.table({}), np.arange(len(sizes)), ())
    window = Window(0, rows, PADDED.outputs)
    made = list(formed(PADDED, Batching(records), inputs, np.arange(len(sizes))))
    random.shuffle(made)
    for some, _ in made:
        batch = collate(PADDED.inputs, window.inputs(some))
        each = [
            row[:size] + 1 for row, size in zip(batch.arrays["x"], batch.sizes["n"], strict=True)
        ]
        window.place(some, Answer({"sum": batch.arrays["x"].sum(axis=1), "each": each}, {}))
    assert window.left == 0
    assert window.outputs["sum"].tolist() == [sum(range(size)) for size in sizes]
    assert [row.tolist() for row in window.outputs["each"]] == [
        list(range(1, size + 1)) for size in sizes
    ]
