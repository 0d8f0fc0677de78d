"""Numbers as JSON: exact, in the digits that their own type needs, and tokens where JSON has no number."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.json_numbers import write_numbers, write_rows
from forebay.core.tensors import Array

FLOATS = {"FP16": (np.uint16, np.float16), "FP32": (np.uint32, np.float32), "FP64": (np.uint64, np.float64)}


def of_bits(datatype: str, bits: list[int]) -> Array:
    unsigned, kind = FLOATS[datatype]
    values: Array = np.array(bits, np.uint64).astype(unsigned).view(kind)
    return values[np.isfinite(values)]


def digits(text: str) -> str:
    return text.lower().partition("e")[0].lstrip("-").replace(".", "").strip("0")


@pytest.mark.parametrize("datatype", FLOATS)
@given(bits=st.lists(st.integers(0, 2**64 - 1)))
def test_floats_read_back_exactly_from_no_more_digits_than_numpy_writes(datatype: str, bits: list[int]) -> None:
    values = of_bits(datatype, bits)
    texts = write_numbers(values).decode()[1:-1].split(",") if len(values) else []
    read = np.array([float(text) for text in texts]).astype(values.dtype)
    assert read.tobytes() == values.tobytes()
    assert [len(digits(text)) for text in texts] == [len(digits(str(value))) for value in values]


def test_every_half_reads_back() -> None:
    values = of_bits("FP16", list(range(1 << 16)))
    read = np.array(json.loads(write_numbers(values))).astype(np.float16)
    assert read.tobytes() == values.tobytes()
    assert write_numbers(np.array([0.1, 65504, 6e-8, -0.0], np.float16)) == b"[0.1,65500.0,6e-8,-0.0]"


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_nan_and_infinities_are_tokens_in_their_places(kind: str) -> None:
    array = np.array([[math.nan, 1.5], [math.inf, -math.inf], [0.0, math.nan]], kind)
    assert write_numbers(array) == b"[[NaN,1.5],[Infinity,-Infinity],[0.0,NaN]]"
    assert write_numbers(array[0, 0].reshape(())) == b"NaN"
    assert write_rows(array) is None


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.array(7, np.int8), 7),
        (np.array(True), True),
        (np.array([True, False]), [True, False]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.array([[-(2**63)]], np.int64), [[-(2**63)]]),
        (np.zeros((2, 0), np.float32), [[], []]),
        (np.zeros((0, 2), np.float32), []),
        (np.arange(6, dtype=np.int32).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.arange(6, dtype=np.float16).reshape(2, 3)[:, 1:], [[1.0, 2.0], [4.0, 5.0]]),
    ],
)
def test_any_type_and_shape(array: Array, value: Any) -> None:
    assert json.loads(write_numbers(array)) == value


def test_rows_without_brackets() -> None:
    assert write_rows(np.array([[1.5, -2.0], [1e-8, 0.1]], np.float32)) == [b"1.5,-2.0", b"1e-8,0.1"]
    assert write_rows(np.arange(8).reshape(2, 2, 2)) == [b"0,1,2,3", b"4,5,6,7"]
    assert write_rows(np.array([True, False])) == [b"true", b"false"]
    assert write_rows(np.arange(4, dtype=np.float32).reshape(2, 2).T) == [b"0.0,2.0", b"1.0,3.0"]


@pytest.mark.parametrize("array", [np.empty((2, 0)), np.empty((0, 2))])
def test_rows_without_a_number(array: Array) -> None:
    assert write_rows(array) is None
