"""A request's payloads as arrays, and its share of its batch's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.core.errors import RequestError
from forebay.core.request import (
    Outputs,
    Request,
    output_array,
    output_buffer,
    output_shape,
    payload_array,
)
from forebay.core.tensors import Array, bytes_array, pack_bytes


def request(outputs: Outputs, row_start: int = 0, rows: int = 1) -> Request:
    found = Request([], (), rows, nbytes=0, deadline=1.0, arrived=0.0, on_done=lambda _: None)
    found.outputs, found.row_start = outputs, row_start
    return found


def outputs(array: Array, datatype: str, rows: int) -> Outputs:
    return Outputs(["y"], [datatype], [array], rows)


NUMBERS = np.arange(12, dtype="<i4").reshape(4, 3)
TEXTS = bytes_array([b"a", b"", b"\xff", b"dd"], [4, 1])


def test_each_request_sees_its_own_rows() -> None:
    batch = outputs(NUMBERS, "INT32", 4)
    first, second = request(batch, 0, 1), request(batch, 1, 3)
    assert output_shape(first, 0, True) == [1, 3]
    assert output_shape(second, 0, True) == [3, 3]
    assert output_array(first, 0, True).tolist() == [[0, 1, 2]]
    assert output_array(second, 0, True).tolist() == NUMBERS[1:].tolist()
    assert output_buffer(second, 0, True) == NUMBERS[1:].tobytes()


def test_bytes_outputs() -> None:
    one = request(outputs(TEXTS, "BYTES", 4), 1, 2)
    assert output_array(one, 0, True).tolist() == [[b""], [b"\xff"]]
    assert output_buffer(one, 0, True) == pack_bytes([b"", b"\xff"])


def test_a_whole_batch_of_one_request() -> None:
    whole = request(outputs(NUMBERS, "INT32", 4), 0, 4)
    assert output_array(whole, 0, True).tolist() == NUMBERS.tolist()


@pytest.mark.parametrize("shape", [(), (2, 2), (0, 5)])
def test_a_model_that_does_not_batch_answers_in_any_shape(shape: tuple[int, ...]) -> None:
    array = np.ones(shape, "<f4")
    found = request(outputs(array, "FP32", 1))
    assert output_shape(found, 0, False) == list(shape)
    assert output_array(found, 0, False).shape == shape
    assert output_buffer(found, 0, False) == array.tobytes()


@pytest.mark.parametrize("width", [0, 2])
def test_no_rows_and_no_columns(width: int) -> None:
    none = request(outputs(np.empty((0, width), "<f4"), "FP32", 0), 0, 0)
    assert (output_shape(none, 0, True), output_array(none, 0, True).shape) == ([0, width], (0, width))
    narrow = request(outputs(np.empty((3, 0), "<f4"), "FP32", 3), 1, 2)
    assert (output_shape(narrow, 0, True), output_array(narrow, 0, True).shape) == ([2, 0], (2, 0))
    assert output_buffer(narrow, 0, True) == b""


@pytest.mark.parametrize("payload", [[1.0, 2.0], np.array([1, 2], "<f4").tobytes(), bytearray(b"\0\0\x80?\0\0\0@")])
def test_payloads_as_arrays(payload: list[float] | bytes | bytearray) -> None:
    array = payload_array(payload, "FP32", [2, 1])
    assert array.dtype == np.dtype("<f4")
    assert array.tolist() == [[1.0], [2.0]]


def test_a_bytes_payload_as_an_array() -> None:
    assert payload_array(memoryview(pack_bytes([b"a", b"bb"])), "BYTES", [2, 1]).tolist() == [[b"a"], [b"bb"]]


def test_a_bytes_payload_that_does_not_fill_its_shape() -> None:
    with pytest.raises(RequestError, match="holds 1099511627776 BYTES elements"):
        payload_array(bytes(4), "BYTES", [1 << 40])


def test_requests_are_told_apart_by_identity() -> None:
    batch = outputs(NUMBERS, "INT32", 4)
    one, other = request(batch), request(batch)
    assert one != other
    assert [one, other].index(other) == 1


def test_rows_as_json_text() -> None:
    floats = np.array([[1.5, -2.0], [1e-8, 3e30]], "<f8")
    assert outputs(floats, "FP64", 2).row_texts() == [b"1.5,-2.0", b"1e-8,3e+30"]
    assert outputs(NUMBERS, "INT32", 4).row_texts() == [b"0,1,2", b"3,4,5", b"6,7,8", b"9,10,11"]
    assert outputs(np.array([7, 8]), "INT64", 2).row_texts() == [b"7", b"8"]


@pytest.mark.parametrize("array", [np.array([[1.0], [np.inf]]), np.empty((2, 0)), np.empty((0, 2))])
def test_rows_that_have_no_plain_json_text(array: Array) -> None:
    assert outputs(array, "FP64", len(array)).row_texts() is None


def test_rows_of_several_outputs_as_json_text() -> None:
    batch = Outputs(["n", "y"], ["INT64", "FP32"], [np.array([7, 8]), np.array([[0.1, 2], [3, 4]], "<f4")], 2)
    assert batch.row_texts([b" and "]) == [b"7 and 0.1,2.0", b"8 and 3.0,4.0"]
    assert Outputs(["n", "y"], ["INT64", "FP32"], [np.array([7]), np.array([[np.nan]])], 1).row_texts([b","]) is None
