"""Answers carry the right values in the form that was asked for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from forebay.api.encode import JSON_HEADERS, AnswerEncoder
from forebay.api.parameters import SHORTHAND, ReplyForm
from forebay.core.errors import RequestError
from forebay.core.request import Outputs, Request
from forebay.core.tensors import Array, pack_bytes
from forebay.models.signature import Signature, TensorSpec

ONE = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (2,)),))
TWO = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (2,)), TensorSpec("t", "BYTES", ())))
WHOLE = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (-1, 2)),), batched=False)


def finished(signature: Signature, arrays: list[Array], rows: int, row_start: int = 0, **members: Any) -> Request:
    """A request of `rows` rows from `row_start` on of a batch with these outputs."""
    request = Request([[]], ((1,),), rows, nbytes=0, deadline=0.0, arrived=0.0, on_done=lambda _: None, **members)
    specs = signature.outputs
    batch_rows = arrays[0].shape[0] if signature.batched else 1
    request.outputs = Outputs([s.name for s in specs], [s.datatype for s in specs], arrays, batch_rows)
    request.row_start = row_start
    return request


def answer(signature: Signature, request: Request) -> Any:
    headers, body = AnswerEncoder("m\u00fc", "1", signature).encode(request)
    assert headers is JSON_HEADERS
    return json.loads(body)


def test_one_output_of_some_rows_of_a_batch() -> None:
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert answer(ONE, finished(ONE, [batch], 2, 1)) == {
        "model_name": "m\u00fc",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 3.0, 4.0, 5.0]}],
    }


def test_the_remembered_head_follows_the_shape() -> None:
    encoder = AnswerEncoder("m", "1", ONE)
    batch = np.zeros((9, 2), np.float32)
    for rows in (1, 3, 1, 0):
        body = json.loads(encoder.encode(finished(ONE, [batch], rows))[1])
        assert body["outputs"][0]["shape"] == [rows, 2]
        assert body["outputs"][0]["data"] == [0.0] * 2 * rows


def test_float32_values_survive_exactly() -> None:
    batch = np.random.default_rng(7).standard_normal((16, 2)).astype(np.float32)
    data = answer(ONE, finished(ONE, [batch], 16))["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(data, np.float32).reshape(16, 2), batch)


def test_float32_leaves_in_the_digits_of_a_float32_in_every_form() -> None:
    batch = np.array([[0.1, 1 / 3]], np.float32)
    encoder = AnswerEncoder("m", "1", ONE)
    texts = [
        encoder.encode(finished(ONE, [batch], 1))[1],
        encoder.encode(finished(ONE, [batch], 1, id="x", wire=ReplyForm(shorthand=True)))[1],
        encoder.plain(finished(ONE, [batch], 1)),
    ]
    assert [b"[0.1,0.33333334]" in text for text in texts if text is not None] == [True] * 3


PAIR = Signature(
    ONE.inputs, (TensorSpec("n", "INT64", ()), TensorSpec("p", "FP32", (2, 1)), TensorSpec("q", "FP64", (1,)))
)


def test_the_short_way_of_several_outputs_says_what_the_long_one_says() -> None:
    arrays = [np.array([7, 8]), np.array([[[0.5], [1]], [[0.1], [2]]], np.float32), np.array([[1.5], [2.5]])]
    encoder = AnswerEncoder("m", "1", PAIR)
    request = finished(PAIR, arrays, 1, 1)
    assert encoder.plain(request) == encoder.encode(request)[1]
    assert [one["data"] for one in json.loads(encoder.encode(request)[1])["outputs"]] == [[8], [0.1, 2.0], [2.5]]
    assert encoder.plain(finished(PAIR, arrays, 1, 1, requested=(1,))) is None
    assert encoder.plain(finished(PAIR, [*arrays[:2], np.array([[1.5], [np.nan]])], 1, 0)) is None


def test_nan_and_infinities_leave_as_tokens() -> None:
    batch = np.array([[math.nan, math.inf], [-math.inf, 1.5]], np.float32)
    body = AnswerEncoder("m", "1", ONE).encode(finished(ONE, [batch], 2))[1]
    assert b'"data":[NaN,Infinity,-Infinity,1.5]' in body
    # A neighbour's NaN in the same batch does not change a clean row.
    assert answer(ONE, finished(ONE, [np.vstack([batch, [[2, 3]]])], 1, 2))["outputs"][0]["data"] == [2.0, 3.0]


def test_id_requested_outputs_and_text() -> None:
    arrays = [np.ones((2, 2), np.float32), np.array([b"a", "\u00e4".encode()], dtype=object)]
    body = answer(TWO, finished(TWO, arrays, 2, id="r", requested=(1, 0)))
    assert body["id"] == "r"
    assert [output["name"] for output in body["outputs"]] == ["t", "y"]
    assert body["outputs"][0] == {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00e4"]}


def test_bytes_that_are_no_text_need_the_binary_form() -> None:
    arrays = [np.ones((2, 2), np.float32), np.array([b"a", b"\xff"], dtype=object)]
    with pytest.raises(RequestError, match="output 't': element 1 is not UTF-8 text"):
        AnswerEncoder("m", "1", TWO).encode(finished(TWO, arrays, 2))
    request = finished(TWO, arrays, 1, 1, requested=(1,), wire=ReplyForm(binary=(True,)))
    assert AnswerEncoder("m", "1", TWO).encode(request)[1].endswith(pack_bytes([b"\xff"]))


@pytest.mark.parametrize("binary", [(True, True), (True, False), (False, True)])
def test_binary_outputs_follow_the_json(binary: tuple[bool, bool]) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(3, 2), np.array([b"a", b"bc", b""], dtype=object)]
    request = finished(TWO, arrays, 2, 1, wire=ReplyForm(binary=binary))
    headers, body = AnswerEncoder("m", "1", TWO).encode(request)
    given = dict(headers)
    assert given[b"content-type"] == b"application/octet-stream"
    length = int(given[b"inference-header-content-length"])
    tensors, tail = json.loads(body[:length])["outputs"], body[length:]
    buffers = [arrays[0][1:].tobytes(), pack_bytes([b"bc", b""])]
    values = [[2.0, 3.0, 4.0, 5.0], ["bc", ""]]
    for tensor, out, buffer, value in zip(tensors, binary, buffers, values, strict=True):
        if out:
            assert tensor["parameters"] == {"binary_data_size": len(buffer)}
            assert "data" not in tensor
            assert tail.startswith(buffer)
            tail = tail[len(buffer) :]
        else:
            assert tensor["data"] == value
    assert tail == b""


def test_a_form_that_asks_for_no_binary_output_is_json() -> None:
    arrays = [np.ones((1, 2), np.float32)]
    headers, _ = AnswerEncoder("m", "1", ONE).encode(finished(ONE, arrays, 1, wire=ReplyForm(binary=(False,))))
    assert headers is JSON_HEADERS


def test_a_model_without_batch_axis_answers_its_whole_shape() -> None:
    request = finished(WHOLE, [np.arange(4, dtype=np.float32).reshape(2, 2)], 1)
    assert answer(WHOLE, request)["outputs"][0]["shape"] == [2, 2]
    request.wire = ReplyForm(shorthand=True)
    assert answer(WHOLE, request)["output"] == {"y": [[0.0, 1.0], [2.0, 3.0]]}


@pytest.mark.parametrize(
    ("row_shape", "array", "value"),
    [
        ((), np.array([5, 6]), 6),
        ((2,), np.array([[1, 2], [3, 4]]), [3, 4]),
        ((2, 1, 2), np.arange(8).reshape(2, 2, 1, 2), [[[4, 5]], [[6, 7]]]),
        ((0,), np.zeros((2, 0), np.int64), []),
        ((2, 0), np.zeros((2, 2, 0), np.int64), [[], []]),
    ],
)
def test_the_one_row_form_nests_as_the_row(row_shape: tuple[int, ...], array: Array, value: Any) -> None:
    signature = Signature(ONE.inputs, (TensorSpec("v", "INT64", row_shape),))
    body = answer(signature, finished(signature, [array], 1, 1, id="q", wire=ReplyForm(shorthand=True)))
    assert body == {"id": "q", "model_name": "m\u00fc", "model_version": "1", "output": {"v": value}}


def test_the_short_way_of_a_flat_row_in_one_row_form_says_what_the_long_one_says() -> None:
    batch = np.array([[0.1, 2], [1 / 3, np.nan]], np.float32)
    encoder = AnswerEncoder("m", "1", ONE)
    request = finished(ONE, [batch[:1]], 1, wire=SHORTHAND)
    assert encoder.plain(request) == encoder.encode(request)[1]
    assert json.loads(encoder.plain(request) or b"")["output"] == {"y": [0.1, 2.0]}
    assert encoder.plain(finished(ONE, [batch], 1, 1, wire=SHORTHAND)) is None
    assert encoder.plain(finished(ONE, [batch[:1]], 1, wire=SHORTHAND, id="x")) is None
    two = Signature(ONE.inputs, (TensorSpec("p", "FP32", (2, 1)),))
    nested = finished(two, [batch[:1].reshape(1, 2, 1)], 1, wire=SHORTHAND)
    assert AnswerEncoder("m", "1", two).plain(nested) is None


def test_explain_tells_how_it_was_batched() -> None:
    request = finished(ONE, [np.ones((1, 2), np.float32)], 1, explain=True)
    request.batch_rows, request.queue_s, request.dispatch_reason, request.padding_waste = 12, 0.0012345, "full", 0.25
    expected = {"batch_rows": 12, "queue_ms": 1.234, "dispatch_reason": "full", "padding_waste": 0.25}
    assert answer(ONE, request)["parameters"] == pytest.approx(expected, abs=1e-3)
