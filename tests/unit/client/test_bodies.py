"""What an inference request looks like on the wire, by the protocol's own words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from forebay.client.bodies import InferBody
from forebay.client.options import InferOptions
from forebay.client.tensors import make_tensors
from forebay.core.errors import RequestError


def sent(
    inputs: dict[str, Any], options: InferOptions | None = None, *, binary: bool, left_s: float = math.inf
) -> tuple[dict[str, str], Any, bytes]:
    """(headers, the JSON, the bytes behind it)."""
    headers, content = InferBody(make_tensors(inputs, None, "no"), options or {}, binary).encode(left_s)
    length = int(headers.get("inference-header-content-length", len(content)))
    return headers, json.loads(content[:length]), content[length:]


def test_binary_tensors_follow_the_json_in_its_order() -> None:
    inputs = {"a": np.array([[1, 2]], "<i2"), "b": np.array([b"x\x00", b""], dtype=object)}
    headers, document, tail = sent(inputs, binary=True)
    assert headers["content-type"] == "application/octet-stream"
    assert document["inputs"] == [
        {"name": "a", "datatype": "INT16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
    ]
    assert tail == b"\x01\x00\x02\x00" + b"\x02\x00\x00\x00x\x00" + b"\x00\x00\x00\x00"
    assert document["parameters"] == {"binary_data_output": True}


def test_big_endian_arrays_travel_little_endian_and_views_row_major() -> None:
    _, _, tail = sent({"a": np.array([1], ">i4")}, binary=True)
    assert tail == b"\x01\x00\x00\x00"
    _, document, tail = sent({"a": np.array([[1, 2], [3, 4]], "i1").T}, binary=True)
    assert (document["inputs"][0]["shape"], tail) == ([2, 2], b"\x01\x03\x02\x04")


def test_a_scalar_has_no_axes_and_an_empty_tensor_no_bytes() -> None:
    _, document, tail = sent({"a": np.float32(1), "b": np.zeros((0, 3), "f2")}, binary=True)
    assert [entry["shape"] for entry in document["inputs"]] == [[], [0, 3]]
    assert tail == b"\x00\x00\x80\x3f"


def test_json_carries_flat_values_with_nan_as_a_token() -> None:
    inputs = {
        "a": np.array([[1.5, np.nan]], "f4"),
        "b": np.array([True]),
        "c": np.array(["\u00e9\x00"], dtype=object),
        "d": np.array([2**64 - 1], "u8"),
    }
    headers, document, tail = sent(inputs, binary=False)
    assert headers == {"content-type": "application/json"}
    assert tail == b""
    data = [entry["data"] for entry in document["inputs"]]
    assert data[0][0] == 1.5
    assert math.isnan(data[0][1])
    assert data[1:] == [[True], ["\u00e9\x00"], [2**64 - 1]]
    assert "parameters" not in document


def test_options_stand_where_the_protocol_has_them() -> None:
    options: InferOptions = {
        "outputs": ["y", "z"],
        "priority": 2,
        "request_id": "r-1",
        "parameters": {"mode": "fast", "k": 3},
        "explain": True,
    }
    _, document, _ = sent({"a": np.zeros(1)}, options, binary=True, left_s=1.5)
    assert document["id"] == "r-1"
    assert document["outputs"] == [
        {"name": "y", "parameters": {"binary_data": True}},
        {"name": "z", "parameters": {"binary_data": True}},
    ]
    # Each output says itself that it is to be binary; the request's own flag would be for all that are not named.
    assert document["parameters"] == {"mode": "fast", "k": 3, "priority": 2, "explain": True, "timeout": 1_500_000}


def test_a_request_in_json_uses_nothing_but_the_protocols_core() -> None:
    _, document, _ = sent({"a": np.zeros(1)}, {"outputs": ["y"]}, binary=False)
    assert document["outputs"] == [{"name": "y"}]


def test_the_time_left_is_written_anew_each_time_and_is_never_nothing() -> None:
    body = InferBody(make_tensors({"a": np.zeros(1)}, None, "no"), {}, binary=False)
    timeouts = [json.loads(body.encode(left_s)[1])["parameters"]["timeout"] for left_s in (2.0, 0.25, 1e-9)]
    assert timeouts == [2_000_000, 250_000, 1]
    assert "parameters" not in json.loads(body.encode(math.inf)[1])


@pytest.mark.parametrize("name", ["timeout", "priority", "explain", "binary_data_output"])
def test_a_parameter_with_an_option_of_its_own_is_not_given_twice(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}' has an option of its own"):
        sent({"a": np.zeros(1)}, {"parameters": {name: 1}}, binary=True)


def test_what_json_cannot_carry_is_refused_here() -> None:
    with pytest.raises(RequestError, match=r"'a': element 1 is not UTF-8 text.*binary=True"):
        sent({"a": np.array([b"ok", b"\xff"])}, binary=False)
    wrong: Any = {"parameters": {"x": object()}}
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        sent({"a": np.zeros(1)}, wrong, binary=True)
    with pytest.raises(RequestError, match="outputs must be a list"):
        sent({"a": np.zeros(1)}, {"outputs": "y"}, binary=True)
