"""Tensors as the kit makes, writes and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forebay.conformance.tensors import NUMPY, Tensor, concrete, from_json, json_data, make, pack, same, unpack


@pytest.mark.parametrize("datatype", sorted(NUMPY))
@pytest.mark.parametrize("shape", [[1, 2], [3], [], [0, 4], [2, 1, 3]])
def test_every_datatype_and_shape_survives_both_forms(datatype: str, shape: list[int]) -> None:
    made = make("x", datatype, shape)
    assert made.shape == shape
    assert same(from_json("x", datatype, shape, json_data(made)), made)
    assert same(unpack("x", datatype, shape, pack(made)), made)
    if shape:
        assert same(from_json("x", datatype, shape, json_data(made, nested=True)), made)


def test_the_binary_form_is_that_of_the_extension() -> None:
    """Little-endian; BOOL one byte; BYTES a 4-byte length, then the bytes."""
    assert pack(Tensor("x", "UINT16", np.array([1, 258], dtype="<u2"))) == b"\x01\x00\x02\x01"
    assert pack(Tensor("x", "FP32", np.array([1.0], dtype=">f4"))) == b"\x00\x00\x80\x3f"
    assert pack(Tensor("x", "BOOL", np.array([True, False]))) == b"\x01\x00"
    assert pack(Tensor("x", "BYTES", np.array([b"ab", b""], dtype=object))) == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], b"\x00" * 7),
        ("BOOL", [1], b"\x02"),
        ("BYTES", [1], b"\x02\x00\x00\x00a"),
        ("BYTES", [1], b"\x02\x00"),
        ("BYTES", [2], b"\x00\x00\x00\x00"),
    ],
)
def test_binary_data_that_does_not_fit_is_told(datatype: str, shape: list[int], data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack("x", datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], [1.0]),
        ("FP32", [2], 1.0),
        ("FP32", [1], ["1"]),
        ("FP32", [1], [True]),
        ("INT8", [1], [128]),
        ("INT8", [1], [1.5]),
        ("BOOL", [1], [1]),
        ("BYTES", [1], [1]),
        ("INT8", [2, 2], [[1, 2], [3]]),
        ("INT8", [2, 2], [[1, 2, 3, 4]]),
        ("INT8", [1, 2], [1, [2]]),
    ],
)
def test_json_data_that_does_not_fit_is_told(datatype: str, shape: list[int], data: Any) -> None:
    with pytest.raises(ValueError):
        from_json("x", datatype, shape, data)


def test_variable_axes_become_one_row_of_four() -> None:
    assert concrete([-1, -1, 3]) == [1, 4, 3]
    assert concrete([]) == []


def test_inputs_of_one_datatype_can_be_told_apart() -> None:
    for datatype in set(NUMPY) - {"BOOL"}:
        assert not same(make("a", datatype, [1, 2], 0), make("a", datatype, [1, 2], 1))


def test_numbers_agree_to_a_thousandth_and_the_rest_exactly() -> None:
    one = Tensor("y", "FP32", np.array([1.0, np.nan], dtype="<f4"))
    assert same(one, Tensor("y", "FP32", np.array([1.0001, np.nan], dtype="<f4")))
    assert not same(one, Tensor("y", "FP32", np.array([1.01, np.nan], dtype="<f4")))
    assert not same(make("y", "INT32", [1, 2]), make("y", "INT32", [2, 1]))
    assert not same(make("y", "INT32", [2]), make("y", "INT64", [2]))


def test_a_datatype_that_the_kit_cannot_make_is_named() -> None:
    with pytest.raises(ValueError, match="BF16"):
        make("x", "BF16", [1])
