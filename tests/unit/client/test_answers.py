"""From an answer's bytes to arrays; whatever else a server sends is one clear error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.client.answers import read_document, read_result
from forebay.client.errors import InvalidAnswerError
from forebay.client.steps import Reply
from forebay.core.tensors import NUMPY_TYPES


def result_of(outputs: Any, tail: bytes = b"", *, binary: bool = False, **members: Any) -> Any:
    head = json.dumps({"model_name": "m", "model_version": "3", "outputs": outputs, **members}).encode()
    headers = {"inference-header-content-length": str(len(head))} if binary or tail else {}
    return read_result(Reply(200, headers, bytearray(head + tail)), attempts=2)


def entry(datatype: str, shape: list[int], name: str = "y", **members: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **members}


def size(count: int) -> dict[str, int]:
    return {"binary_data_size": count}


def test_json_and_binary_outputs_may_stand_in_one_answer() -> None:
    result = result_of(
        [
            entry("FP32", [1, 2], "a", parameters=size(8)),
            entry("INT64", [2], "b", data=[1, -(2**63)]),
            entry("BYTES", [2], "c", parameters=size(10)),
        ],
        np.array([1.5, np.nan], "<f4").tobytes() + b"\x02\x00\x00\x00\x00x\x00\x00\x00\x00",
        id="r",
        parameters={"batch_rows": 4},
    )
    np.testing.assert_array_equal(result["a"], np.array([[1.5, np.nan]], "f4"))
    assert result["b"].tolist() == [1, -(2**63)]
    assert result["c"].tolist() == [b"\x00x", b""]
    assert (result.model_name, result.model_version, result.id, result.attempts) == ("m", "3", "r", 2)
    assert result.parameters == {"batch_rows": 4}
    assert list(result) == ["a", "b", "c"]
    assert dict(result) == result.outputs
    with pytest.raises(KeyError, match="no output 'z'; it has a, b, c"):
        result["z"]


def test_arrays_are_the_callers_own() -> None:
    for result in (
        result_of([entry("FP32", [2], parameters=size(8))], bytes(8)),
        result_of([entry("FP32", [2], data=[0, 0])]),
    ):
        result["y"][0] = 7.0
        assert result["y"].tolist() == [7.0, 0.0]
        assert result["y"].flags.aligned


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_json_data_of_every_datatype_nested_or_flat(datatype: str) -> None:
    values: list[Any] = [["a", "b"], ["", "\u00e9"]] if datatype == "BYTES" else [[0, 1], [1, 0]]
    if datatype == "BOOL":
        values = [[False, True], [True, False]]
    flat = [value for row in values for value in row]
    nested = result_of([entry(datatype, [2, 2], data=values)])["y"]
    assert nested.dtype == NUMPY_TYPES[datatype]
    assert nested.tolist() == result_of([entry(datatype, [2, 2], data=flat)])["y"].tolist()
    assert nested.reshape(-1).tolist() == [v.encode() if isinstance(v, str) else v for v in flat]


def test_scalars_and_empty_tensors() -> None:
    assert result_of([entry("FP32", [], data=[2.0])])["y"].shape == ()
    assert result_of([entry("INT8", [0, 4], data=[])])["y"].shape == (0, 4)
    assert result_of([entry("BYTES", [0], parameters=size(0))], binary=True)["y"].shape == (0,)
    assert len(result_of([])) == 0


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        {},
        [3],
        [{"datatype": "FP32", "shape": [1], "data": [1]}],
        [entry("BF16", [1], data=[1])],
        [entry("FP32", [-1], data=[1])],
        [{"name": "y", "datatype": "FP32", "data": [1]}],
        [entry("FP32", [2], data=[1])],
        [entry("FP32", [1])],
        [entry("FP32", [1], data=["a"])],
        [entry("FP32", [1], data=[[1], 2])],
        [entry("INT8", [1], data=[300])],
        [entry("BYTES", [1], data=[{}])],
        [entry("BYTES", [1], data=[3])],
        [entry("FP32", [1], parameters=size(4))],
        [entry("FP32", [1], parameters={"binary_data_size": "4"})],
    ],
)
def test_outputs_in_no_form_of_the_protocol_are_an_invalid_answer(outputs: Any) -> None:
    with pytest.raises(InvalidAnswerError):
        result_of(outputs)


@pytest.mark.parametrize(
    ("datatype", "shape", "tail"),
    [
        ("FP32", [2], bytes(4)),
        ("BYTES", [1], b"\x09\x00\x00\x00abcd"),
        ("BYTES", [2], b"\x00\x00\x00\x00"),
        ("BYTES", [1], b"\x00"),
    ],
)
def test_binary_data_that_does_not_fit_is_an_invalid_answer(datatype: str, shape: list[int], tail: bytes) -> None:
    with pytest.raises(InvalidAnswerError, match="'y'"):
        result_of([entry(datatype, shape, parameters=size(len(tail)))], tail)


@pytest.mark.parametrize("length", ["-1", "x", "999", "", "9" * 30])
def test_a_header_length_that_cannot_be_is_an_invalid_answer(length: str) -> None:
    with pytest.raises(InvalidAnswerError):
        read_result(Reply(200, {"inference-header-content-length": length}, b'{"outputs":[]}'), 1)


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 200)))
def test_no_bytes_raise_anything_else(body: bytes, length: int | None) -> None:
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    with pytest.raises(InvalidAnswerError):
        read_result(Reply(200, headers, body), 1)


def test_a_document_is_an_object() -> None:
    assert read_document(Reply(200, {}, b'{"a": NaN}')).keys() == {"a"}
    with pytest.raises(InvalidAnswerError, match="not a JSON object"):
        read_document(Reply(200, {}, b"[]"))
