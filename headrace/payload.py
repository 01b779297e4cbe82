"""How a record's values travel and rest: msgpack, with tensors as raw little-endian bytes.

JSON is not used: decoding a batch of 64×784 floats from it costs several forward passes.
An array is extension type 1: a msgpack list ``[dtype, shape, buffer]`` with the numpy dtype
string (``<f4``) and the buffer in C order.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

_ARRAY = 1


def encode(record: Mapping[str, Any]) -> bytes:
    """The record as bytes. Values: numpy arrays, bytes, str, and what JSON can say."""
    packed: bytes = _packers.outer.pack(record)
    return packed


def decode(data: bytes) -> dict[str, Any]:
    """The record back. Arrays are read-only views on `data`.

    Raises ValueError where `data` was not written by `encode`.
    """
    try:
        record = msgpack.unpackb(data, ext_hook=_unpack)
    except (msgpack.UnpackException, TypeError) as error:
        raise ValueError(f"not a Headrace payload ({error})") from None
    if not isinstance(record, dict):
        raise ValueError("not a Headrace payload (no mapping)")
    return record


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        dtype, name = _little_endian(value.dtype)
        buffer = np.ascontiguousarray(value, dtype).tobytes()
        return msgpack.ExtType(_ARRAY, _packers.inner.pack((name, value.shape, buffer)))
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot store a {type(value).__name__}")


class _Packers(threading.local):
    """A packer allocates a quarter of a megabyte: kept, because a record is smaller."""

    def __init__(self) -> None:
        self.outer = msgpack.Packer(default=_pack)
        self.inner = msgpack.Packer()


_packers = _Packers()


@functools.cache
def _little_endian(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], str]:
    little = dtype.newbyteorder("<")
    return little, little.str


def _unpack(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown payload extension {code}")
    dtype, shape, buffer = msgpack.unpackb(data)
    return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)
