"""Datatypes, and tensors to and from the protocol's binary form."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.errors import RequestError
from forebay.core.tensors import (
    NUMPY_TYPES,
    as_bytes,
    bytes_array,
    datatype_of,
    element_count,
    from_buffer,
    pack_bytes,
    to_buffer,
    unpack_bytes,
)

NUMBERS = [name for name in NUMPY_TYPES if name != "BYTES"]


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_every_datatype_has_one_numpy_type_and_back(datatype: str) -> None:
    assert datatype_of(np.empty(0, NUMPY_TYPES[datatype])) == datatype


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([1], ">i4"), "INT32"),
        (np.array([1], ">f2"), "FP16"),
        (np.array([b"a"]), "BYTES"),
        (np.array(["a"]), "BYTES"),
        (np.array(1.0), "FP64"),
    ],
)
def test_other_spellings_of_a_datatype(array: Any, datatype: str) -> None:
    assert datatype_of(array) == datatype


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.array([(1,)], [("a", "i4")])])
def test_types_without_a_datatype_are_named(array: Any) -> None:
    with pytest.raises(ValueError, match="has no datatype in the protocol; use one of BOOL, UINT8"):
        datatype_of(array)


@pytest.mark.parametrize(("shape", "count"), [((), 1), ((0,), 0), ((3, 4), 12), ((2**40, 0, 2**40), 0)])
def test_element_count(shape: tuple[int, ...], count: int) -> None:
    assert element_count(shape) == count


@given(st.sampled_from(NUMBERS), st.lists(st.integers(0, 3), max_size=3), st.data())
def test_numbers_round_trip_bit_for_bit(datatype: str, shape: list[int], data: st.DataObject) -> None:
    dtype, count = NUMPY_TYPES[datatype], element_count(shape)
    raw = data.draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if datatype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    array = from_buffer(raw, datatype, shape)
    assert (array.dtype, list(array.shape)) == (dtype, shape)
    assert to_buffer(array, datatype) == raw


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_bytes_round_trip(values: list[bytes]) -> None:
    packed = pack_bytes(values)
    assert unpack_bytes(packed, len(values)) == values
    assert to_buffer(from_buffer(packed, "BYTES", [len(values)]), "BYTES") == packed


@given(st.binary(max_size=60), st.integers(0, 5))
def test_no_buffer_of_bytes_elements_does_worse_than_be_refused(buffer: bytes, count: int) -> None:
    try:
        values = unpack_bytes(buffer, count)
    except RequestError:
        return
    assert len(values) == count
    assert pack_bytes(values) == buffer


@pytest.mark.parametrize(
    ("buffer", "count", "message"),
    [
        (b"\1\0\0", 1, "ends inside a length prefix at byte 0"),
        (b"\1\0\0\0a\2", 1, "ends inside a length prefix at byte 5"),
        (b"\5\0\0\0abc", 1, "5 bytes at byte 4 runs past the end, 7"),
        (b"\xff\xff\xff\xff", 1, "4294967295 bytes"),
        (b"", 1, "holds 1 BYTES elements, its data 0"),
        (bytes(4), 2, "holds 2 BYTES elements, its data 1"),
        (bytes(40), 2, "holds 2 BYTES elements, its data more"),
    ],
)
def test_broken_bytes_say_what_is_wrong(buffer: bytes, count: int, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        unpack_bytes(buffer, count, "text")
    assert caught.value.code == "invalid_request"
    assert "'text'" in caught.value.message


def test_a_shape_of_very_many_bytes_elements_costs_nothing() -> None:
    with pytest.raises(RequestError, match="its data 1"):
        from_buffer(bytes(4), "BYTES", [1 << 40])


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_a_buffer_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(RequestError, match=f"1 FP32 elements are 4 bytes, got {size}"):
        from_buffer(bytes(size), "FP32", [1])


def test_row_major_whatever_the_layout() -> None:
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    assert to_buffer(array.T, "INT16") == struct.pack("<6h", 0, 3, 1, 4, 2, 5)


def test_scalars() -> None:
    assert from_buffer(struct.pack("<d", 1.5), "FP64", []).shape == ()
    assert to_buffer(np.array(1.5), "FP64") == struct.pack("<d", 1.5)


@pytest.mark.parametrize(
    ("value", "element"),
    [
        (b"\xff", b"\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("ü", "ü".encode()),
        (np.str_("a"), b"a"),
        (np.bytes_(b"a"), b"a"),
        (7, b"7"),
        (None, b"None"),
    ],
)
def test_what_counts_as_an_element(value: Any, element: bytes) -> None:
    assert as_bytes(value) == element


@pytest.mark.parametrize("values", [[], [b"a"], [b"a", b"bc", b"", b"d"]])
def test_bytes_arrays_hold_bytes(values: list[bytes]) -> None:
    array = bytes_array(values, [len(values), 1])
    assert array.dtype == object
    assert array.tolist() == [[value] for value in values]
