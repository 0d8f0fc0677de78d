"""Parameters, requested outputs and binary tensors of a request's body."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from forebay.api.decode import BodyDecoder
from forebay.api.parameters import ReplyForm
from forebay.core.errors import RequestError
from forebay.core.request import Request, payload_array
from forebay.core.tensors import Array, pack_bytes
from forebay.models.signature import Signature, TensorSpec

OUTPUTS = (TensorSpec("y", "FP32", (2,)), TensorSpec("z", "INT64", ()))
FP32 = Signature((TensorSpec("x", "FP32", (2, 2)),), OUTPUTS)
PAIR = Signature((TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT32", (2,))), OUTPUTS)
TEXT = Signature((TensorSpec("t", "BYTES", ()),), OUTPUTS)


def of(datatype: str) -> Signature:
    return Signature((TensorSpec("x", datatype, (-1,)),), OUTPUTS)


def decode(signature: Signature, body: Any, header_length: int | None = None, tail: bytes = b"") -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if tail:
        header_length, raw = len(raw), raw + tail
    return BodyDecoder(signature, default_timeout_s=10.0).decode(raw, 100.0, lambda _: None, header_length)


def refusal(signature: Signature, body: Any, header_length: int | None = None, tail: bytes = b"") -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(signature, body, header_length, tail)
    return caught.value


def tensor(request: Request, signature: Signature, index: int = 0) -> Array:
    whole = (request.rows, *request.shapes[index])
    return payload_array(request.inputs[index], signature.inputs[index].datatype, whole)


def four(**more: Any) -> dict[str, Any]:
    """A legal body for FP32, with more members."""
    return {"inputs": [{"name": "x", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}], **more}


def test_parameters() -> None:
    asked = {"priority": 2, "timeout": 250_000, "explain": True, "mode": "fast", "k": 3}
    request = decode(FP32, four(id="r1", parameters=asked))
    assert (request.priority, request.explain, request.id) == (2, True, "r1")
    assert request.deadline == pytest.approx(100.25)
    assert request.parameters == {"mode": "fast", "k": 3}
    assert decode(FP32, four(parameters={"timeout": 0})).deadline == 110.0


@pytest.mark.parametrize(
    ("parameters", "words", "code"),
    [
        ({"priority": -1}, "'priority' must be from 0", "invalid_request"),
        ({"priority": 1.5}, "'priority' must be an integer, got 1.5", "invalid_request"),
        ({"priority": True}, "'priority' must be an integer", "invalid_request"),
        ({"timeout": -5}, "'timeout' must be from 0", "invalid_request"),
        ({"timeout": "5"}, "'timeout' must be an integer, got '5'", "invalid_request"),
        ({"timeout": 10**30}, "'timeout' must be from 0", "invalid_request"),
        ({"explain": 1}, "'explain' must be true or false", "invalid_request"),
        ({"binary_data_output": "yes"}, "'binary_data_output' must be true or false", "invalid_request"),
        ({"sequence_id": 7}, "sequences are not supported", "unsupported"),
        ({"triton_x": 1}, "reserved", "invalid_request"),
        ({"mine": {"a": 1}}, "'mine' must be a string, number or boolean, got an object", "invalid_request"),
        ({"mine": None}, "got null", "invalid_request"),
        ({"mine": 10**30}, "fit in 64 bits", "invalid_request"),
        ({"mine": math.nan}, "must be finite", "invalid_request"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], words: str, code: str) -> None:
    error = refusal(FP32, four(parameters=parameters))
    assert words in error.message
    assert error.code == code


@pytest.mark.parametrize(
    ("outputs", "default", "requested", "wire"),
    [
        (None, False, None, None),
        ([], False, None, None),
        (None, True, None, ReplyForm(binary=(True, True))),
        ([{"name": "z"}, {"name": "y"}], False, (1, 0), None),
        ([{"name": "z"}], True, (1,), ReplyForm(binary=(True,))),
        (
            [{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}],
            True,
            (1, 0),
            ReplyForm(binary=(False, True)),
        ),
        ([{"name": "y", "parameters": {"binary_data": True}}], False, (0,), ReplyForm(binary=(True,))),
    ],
)
def test_outputs_and_their_form(outputs: Any, default: bool, requested: Any, wire: Any) -> None:
    content = four(parameters={"binary_data_output": default})
    if outputs is not None:
        content["outputs"] = outputs
    request = decode(FP32, content)
    assert request.requested == requested
    assert request.wire == wire


@pytest.mark.parametrize(
    ("outputs", "words", "code"),
    [
        ([{"name": "q"}], "no output 'q'; it has y, z", "invalid_request"),
        ([{"name": "y"}, {"name": "y"}], "twice", "invalid_request"),
        ([{}], "name must be a string, got nothing", "invalid_request"),
        ([3], "outputs[0] must be an object", "invalid_request"),
        ({}, "outputs must be a list", "invalid_request"),
        ([{"name": "y", "parameters": {"binary_data": 1}}], "binary_data must be true or false", "invalid_request"),
        ([{"name": "y", "parameters": []}], "parameters must be an object", "invalid_request"),
        ([{"name": "y", "parameters": {"classification": -1}}], "classification must be an integer", "invalid_request"),
        ([{"name": "y", "parameters": {"classification": True}}], "classification must be an", "invalid_request"),
        ([{"name": "y", "parameters": {"classification": 1.0}}], "classification must be an", "invalid_request"),
        ([{"name": "y", "parameters": {"shared_memory_region": "r"}}], "shared memory", "unsupported"),
    ],
)
def test_wrong_outputs_are_named(outputs: Any, words: str, code: str) -> None:
    error = refusal(FP32, four(outputs=outputs))
    assert words in error.message
    assert error.code == code


def binary_item(size: int, shape: list[int], datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def test_binary_inputs_are_views_of_the_body() -> None:
    values = np.arange(8, dtype=np.float32)
    request = decode(FP32, {"inputs": [binary_item(32, [2, 2, 2])]}, tail=values.tobytes())
    (payload,) = request.inputs
    assert isinstance(payload, memoryview)
    assert request.nbytes == 32
    np.testing.assert_array_equal(tensor(request, FP32).reshape(-1), values)


def test_json_and_binary_inputs_mix_in_any_order() -> None:
    first = binary_item(8, [1, 2], "INT32", "b")
    second = {"name": "a", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}
    for inputs in ([first, second], [second, first]):
        request = decode(PAIR, {"inputs": inputs}, tail=np.array([7, 8], np.int32).tobytes())
        assert request.inputs[0] == [0.5]
        np.testing.assert_array_equal(tensor(request, PAIR, 1), [[7, 8]])


def test_binary_tensors_follow_the_order_of_the_json() -> None:
    a, b = np.array([1.5], np.float32).tobytes(), np.array([7, 8], np.int32).tobytes()
    inputs = [binary_item(8, [1, 2], "INT32", "b"), binary_item(4, [1, 1], name="a")]
    request = decode(PAIR, {"inputs": inputs}, tail=b + a)
    assert tensor(request, PAIR, 0).tolist() == [[1.5]]
    assert tensor(request, PAIR, 1).tolist() == [[7, 8]]


def test_binary_text_and_empty_tensors() -> None:
    packed = pack_bytes([b"", b"\xff\x00", b"abc"])
    request = decode(TEXT, {"inputs": [binary_item(len(packed), [3], "BYTES", "t")]}, tail=packed)
    assert tensor(request, TEXT).tolist() == [b"", b"\xff\x00", b"abc"]
    content = json.dumps({"inputs": [binary_item(0, [0, 2, 2])]}).encode()
    assert decode(FP32, content, len(content)).rows == 0


@pytest.mark.parametrize(
    ("signature", "entry", "tail", "words"),
    [
        (FP32, binary_item(16, [1, 2, 2]), bytes(15), "16, but 15 bytes are left"),
        (FP32, binary_item(16, [1, 2, 2]), bytes(17), "1 bytes more"),
        (FP32, binary_item(12, [1, 2, 2]), bytes(12), "of shape [1, 2, 2] takes 16 bytes, its binary data has 12"),
        (FP32, binary_item(-1, [1, 2, 2]), bytes(16), "binary_data_size must be an integer of at least 0, got -1"),
        (FP32, {**binary_item(16, [1, 2, 2]), "data": [1, 2, 3, 4]}, bytes(16), "both data and binary_data_size"),
        (
            of("BOOL"),
            binary_item(2, [1, 2], "BOOL"),
            b"\x01\x02",
            "element 1 of BOOL binary data must be 0 or 1, got 2",
        ),
        (TEXT, binary_item(3, [1], "BYTES", "t"), b"\x00\x00\x00", "ends inside a length prefix at byte 0"),
        (TEXT, binary_item(5, [1], "BYTES", "t"), b"\x02\x00\x00\x00a", "element 0 of 2 bytes at byte 0 runs past"),
        (TEXT, binary_item(4, [2], "BYTES", "t"), bytes(4), "holds 2 BYTES elements, its binary data 1"),
        (TEXT, binary_item(8, [1], "BYTES", "t"), bytes(8), "holds 1 BYTES elements, its binary data more"),
    ],
)
def test_wrong_binary_data_is_refused(signature: Signature, entry: dict[str, Any], tail: bytes, words: str) -> None:
    assert words in refusal(signature, {"inputs": [entry]}, tail=tail).message


def outcome(steps: Iterator[None]) -> tuple[int, Any]:
    """How many steps were taken, and the elements or the message that came of them."""
    taken = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return taken, tensor(end.value, TEXT).tolist()
        except RequestError as error:
            return taken, error.message
        taken += 1


@pytest.mark.parametrize("count", [0, 1, 2048, 5000])
def test_large_text_is_walked_in_steps_to_the_same_end(count: int) -> None:
    values = [b"x" * (index % 3) for index in range(count)]
    packed = pack_bytes(values)
    for tail, claimed in ((packed, count), (packed, count + 1), (packed + b"\0", count)):
        head = json.dumps({"inputs": [binary_item(len(tail), [claimed], "BYTES", "t")]}).encode()
        steps = BodyDecoder(TEXT).decode_binary_in_steps(head + tail, 0.0, lambda _: None, len(head))
        taken, found = outcome(steps)
        assert taken == count // 2048
        if (tail, claimed) == (packed, count):
            assert found == values
        else:
            assert found == refusal(TEXT, head + tail, len(head)).message


def test_binary_data_needs_its_header() -> None:
    assert "Inference-Header-Content-Length" in refusal(FP32, {"inputs": [binary_item(16, [1, 2, 2])]}).message
    assert "whole body has 2 bytes" in refusal(FP32, b"{}", 3).message


def test_raw_binary_request() -> None:
    request = decode(of("INT16"), np.array([1, 2, 3], np.int16).tobytes(), 0)
    assert tensor(request, of("INT16")).tolist() == [[1, 2, 3]]
    assert request.wire == ReplyForm(binary=(True, True))
    assert "takes 16 bytes, its binary data has 15" in refusal(FP32, bytes(15), 0).message
    assert "one input" in refusal(PAIR, bytes(4), 0).message


def test_a_raw_binary_row_of_text_is_the_element_itself() -> None:
    # As in Triton's own test of it: no length stands before the bytes.
    for raw in (b"427", b"", b"\x03\x00\x00\x00abc", bytes(range(256))):
        request = decode(TEXT, raw, 0)
        assert (tensor(request, TEXT).tolist(), request.rows) == ([raw], 1)


def test_classification_and_its_binary_form() -> None:
    asked = [{"name": "z", "parameters": {"classification": 2}}, {"name": "y", "parameters": {"binary_data": False}}]
    request = decode(FP32, four(outputs=asked, parameters={"binary_data_output": True}))
    assert request.requested == (1, 0)
    assert request.wire == ReplyForm(binary=(True, False), classes=(2, 0))
    assert decode(FP32, four(outputs=[{"name": "y", "parameters": {"classification": 0}}])).wire is None
