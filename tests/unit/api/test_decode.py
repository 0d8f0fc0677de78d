"""Bodies that are legal become the right tensors; everything else is a RequestError that says what is wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from forebay.api.decode import BodyDecoder
from forebay.api.parameters import ReplyForm
from forebay.core.errors import RequestError
from forebay.core.request import Request, payload_array
from forebay.core.tensors import NUMPY_TYPES, Array
from forebay.models.signature import Signature, TensorSpec

OUTPUTS = (TensorSpec("y", "FP32", (2,)), TensorSpec("z", "INT64", ()))
FP32 = Signature((TensorSpec("x", "FP32", (2, 2)),), OUTPUTS)
PAIR = Signature((TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT32", (2,))), OUTPUTS)
TEXT = Signature((TensorSpec("t", "BYTES", ()),), OUTPUTS)
WHOLE = Signature((TensorSpec("m", "FP32", (2, -1)),), OUTPUTS, batched=False)


def of(datatype: str, row_shape: tuple[int, ...] = (-1,)) -> Signature:
    return Signature((TensorSpec("x", datatype, row_shape),), OUTPUTS)


def ignore(_: Request) -> None:
    """Nothing waits for these requests."""


def decode(signature: Signature, body: Any, header_length: int | None = None, depth: int = 64) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    decoder = BodyDecoder(signature, default_timeout_s=10.0, max_json_depth=depth)
    return decoder.decode(raw, 100.0, ignore, header_length)


def tensor(request: Request, signature: Signature, index: int = 0) -> Array:
    shape = request.shapes[index]
    whole = (request.rows, *shape) if signature.batched else shape
    return payload_array(request.inputs[index], signature.inputs[index].datatype, whole)


def item(data: Any, shape: list[Any], datatype: str = "FP32", name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def body(data: Any, shape: list[Any], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"inputs": [item(data, shape, datatype)], **more}


def refusal(signature: Signature, content: Any, header_length: int | None = None, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(signature, content, header_length, **more)
    return caught.value


def test_the_hot_way_keeps_the_list() -> None:
    request = decode(FP32, body([1, 2.5, -3, 4e-5], [1, 2, 2]))
    assert request.inputs == [[1.0, 2.5, -3.0, 4e-5]]
    assert (request.rows, request.shapes, request.nbytes) == (1, ((2, 2),), 16)
    assert (request.arrived, request.deadline, request.priority, request.id) == (100.0, 110.0, 0, "")
    assert request.parameters is None
    assert request.requested is None
    assert request.wire is None
    assert request.on_done is ignore


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6, 7, 8], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]])
def test_flat_and_nested_data_are_the_same(data: list[Any]) -> None:
    request = decode(FP32, body(data, [2, 2, 2]))
    np.testing.assert_array_equal(tensor(request, FP32), np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False, True]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [0.5, 65504.0, -65504.0, 1e-8]),
        ("FP32", [0.1, 3.4028234663852886e38, -3.4028234663852886e38, 1e-46]),
        ("FP64", [0.1, 1.7976931348623157e308, 2**53 + 2]),
        ("BYTES", ["", "plain", "\u00e4\u20ac\U0001f600", "nul\x00"]),
    ],
)
def test_every_datatype_survives(datatype: str, values: list[Any], nested: bool) -> None:
    signature = of(datatype)
    request = decode(signature, body([values] if nested else values, [1, len(values)], datatype))
    expected = [value.encode() for value in values] if datatype == "BYTES" else values
    assert tensor(request, signature).tolist() == [np.array(expected, dtype=NUMPY_TYPES[datatype]).tolist()]
    assert request.shapes == ((len(values),),)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_nan_and_infinities_survive(datatype: str) -> None:
    text = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"%b","data":[NaN,Infinity,-Infinity,1]}]}'
    values = tensor(decode(of(datatype), text % datatype.encode()), of(datatype))[0].tolist()
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 1.0]


@pytest.mark.parametrize(
    ("datatype", "value", "token"),
    [
        ("FP32", 1e39, "1e+39"),
        ("FP32", -3.4028235677973366e38, "-3.4"),
        ("FP16", 65520, "65520"),
        ("FP32", 10**400, "integer of"),
        ("FP64", 10**400, "integer of"),
        ("UINT8", 256, "256"),
        ("UINT8", -1, "-1"),
        ("INT8", 128, "128"),
        ("INT64", 2**63, str(2**63)),
        ("UINT64", 2**64, str(2**64)),
        ("UINT64", -1, "-1"),
        ("INT32", 1.0, "1.0"),
        ("INT32", True, "True"),
        ("FP32", True, "True"),
        ("FP32", "1", "'1'"),
        ("FP32", None, "None"),
        ("BOOL", 1, "1"),
        ("BYTES", 5, "5"),
        ("BYTES", None, "None"),
    ],
)
def test_a_wrong_value_is_named(datatype: str, value: Any, token: str) -> None:
    good = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
    error = refusal(of(datatype), body([good, value], [1, 2], datatype))
    assert error.code == "invalid_request"
    assert "'x'" in error.message
    assert "element 1" in error.message
    assert token in error.message


def test_a_number_beyond_fp64_is_refused() -> None:
    assert (
        "1e400"
        in refusal(of("FP64"), b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP64","data":[1e400]}]}').message
    )


@pytest.mark.parametrize(
    ("signature", "shape", "data"),
    [
        (FP32, [0, 2, 2], []),
        (of("FP32"), [2, 0], []),
        (of("FP32"), [2, 0], [[], []]),
        (of("INT64"), [0, 3], []),
        (of("BYTES"), [1, 0], []),
    ],
)
def test_empty_tensors_work(signature: Signature, shape: list[int], data: list[Any]) -> None:
    request = decode(signature, body(data, shape, signature.inputs[0].datatype))
    assert tensor(request, signature).shape == tuple(shape)
    assert request.nbytes == 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([1, 4], "expected shape [-1, 2, 2], got [1, 4]"),
        ([1, 2, 3], "expected shape [-1, 2, 2], got [1, 2, 3]"),
        ([2, 2, 2], "shape [2, 2, 2] holds 8 elements, data has 4"),
        ([-1, 2, 2], "shape[0] must be from 0 to 2147483647, got -1"),
        ([2**31, 2, 2], "shape[0] must be from 0"),
        ([10**50, 2, 2], "an integer of 167 bits"),
        ([2**31 - 1, 2, 2], "holds 8589934588 elements, data has 4"),
        ([1.0, 2, 2], "shape[0] must be an integer, got 1.0"),
        ([True, 2, 2], "shape[0] must be an integer, got True"),
        ("no", "shape must be a list of integers, got a string"),
    ],
)
def test_a_wrong_shape_says_expected_and_got(shape: Any, words: str) -> None:
    assert words in refusal(FP32, body([1, 2, 3, 4], shape)).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([[1, 2], [3, 4]], "expected 1 items at depth 0, got 2"),
        ([[[1, 2], [3]]], "expected 2 items at depth 2, got 1"),
        ([[[1, 2], 3]], "expected a list of 2 at depth 2, got an integer"),
        ([[[1, 2], [3, [4]]]], "nests deeper than the 3 axes"),
        ([[[1, 2], [3, {}]]], "element 3 must be a number (FP32), got an object"),
        ({}, "data must be a list, got an object"),
        ("abcd", "data must be a list, got a string"),
    ],
)
def test_wrongly_nested_data_is_refused(data: Any, words: str) -> None:
    assert words in refusal(FP32, body(data, [1, 2, 2])).message


def test_an_empty_tensor_may_not_claim_large_axes() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, -1)),), OUTPUTS)
    assert "other axes" in refusal(signature, body([], [0, 2**20, 2])).message
    assert decode(signature, body([], [0, 1024, 2])).rows == 0
    assert "other axes" in refusal(of("FP32", (0,)), body([], [2**21, 0])).message


def test_inputs_come_in_any_order() -> None:
    a, b = item([1.5, 2.5], [2, 1], name="a"), item([1, 2, 3, 4], [2, 2], "INT32", name="b")
    for inputs in ([a, b], [b, a]):
        request = decode(PAIR, {"inputs": inputs})
        assert (request.rows, request.shapes) == (2, ((1,), (2,)))
        np.testing.assert_array_equal(tensor(request, PAIR, 1), [[1, 2], [3, 4]])
        assert request.nbytes == 2 * 4 + 4 * 4


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([item([1], [1, 1], name="a")], "input 'b' is missing"),
        ([], "input 'a', 'b' is missing"),
        ([item([1], [1, 1], name="a")] * 2, "input 'a' is given twice"),
        ([item([1], [1, 1], name="q")], "no input 'q'; it has a, b"),
        (
            [item([1], [1, 1], name="a"), item([1, 2, 3, 4], [2, 2], "INT32", name="b")],
            "same number of rows: 'a' has 1, 'b' has 2",
        ),
        ([item([1], [1, 1], "FP64", name="a")], "input 'a': expected datatype FP32, got 'FP64'"),
        ([item([1], [1, 1], "FLOAT", name="a")], "no datatype of the protocol"),
        ([{"name": "a", "shape": [1, 1], "data": [1]}], "expected datatype FP32, got nothing"),
        ([{"name": "a", "datatype": "FP32", "data": [1]}], "input 'a' has no shape"),
        ([{"name": "a", "datatype": "FP32", "shape": [1, 1]}], "input 'a' has no data"),
        ([{"shape": [1]}], "inputs[0]: name must be a string, got nothing"),
        ([5], "inputs[0] must be an object, got an integer"),
        ({}, "inputs must be a list, got an object"),
        (None, "has no inputs"),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, words: str) -> None:
    assert words in refusal(PAIR, {"inputs": inputs}).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the body is empty"),
        (b"[]", "must be a JSON object, got a list"),
        (b"null", "must be a JSON object, got null"),
        (b"{", "not JSON"),
        (b'{"inputs":[]} x', "not JSON"),
        (b'{"inputs": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{}", "has no inputs"),
        (b'{"id": 5, "inputs": []}', "id must be a string"),
        (b'{"id": "\\ud800", "inputs": []}', "id is not Unicode text"),
        (b'{"parameters": [], "inputs": []}', "parameters must be an object"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "nested deeper than 64"),
        (b'{"a": ' + b"[" * 100_000, "nested too deep"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
def test_a_body_that_is_no_request_is_refused(content: bytes, words: str) -> None:
    assert words in refusal(FP32, content).message


def test_text_that_is_no_unicode_is_refused() -> None:
    error = refusal(TEXT, b'{"inputs":[{"name":"t","shape":[2],"datatype":"BYTES","data":["a","\\ud83d"]}]}')
    assert "element 1 is not Unicode text" in error.message


def test_deep_data_is_refused_by_its_shape() -> None:
    content = b'{"inputs":[{"name":"x","shape":[1,2,2],"datatype":"FP32","data":' + b"[" * 300 + b"]" * 300 + b"}]}"
    assert "data must nest as shape" in refusal(FP32, content).message


def test_unknown_members_are_ignored_and_the_last_of_two_counts() -> None:
    tensor_text = b'{"name":"x","shape":[1,2,2],"extra":{},"datatype":"FP32","data":[1,2,3,4]}'
    raw = b'{"model_name":"m","inputs":0,"inputs":[%b]}' % tensor_text
    assert decode(FP32, raw).inputs == [[1.0, 2.0, 3.0, 4.0]]


def test_a_model_without_batch_axis_takes_its_whole_shape() -> None:
    request = decode(WHOLE, {"inputs": [item([1, 2, 3, 4, 5, 6], [2, 3], name="m")]})
    assert (request.rows, request.shapes) == (1, ((2, 3),))
    assert (
        "expected shape [2, -1], got [1, 3]" in refusal(WHOLE, {"inputs": [item([1, 2, 3], [1, 3], name="m")]}).message
    )


def test_the_one_row_shorthand() -> None:
    request = decode(FP32, {"input": {"x": [[1, 2], [3, 4]]}, "id": "s"})
    assert (request.rows, request.inputs, request.id) == (1, [[1.0, 2.0, 3.0, 4.0]], "s")
    assert request.wire == ReplyForm(shorthand=True)
    assert tensor(decode(TEXT, {"input": {"t": "hi"}}), TEXT).tolist() == [b"hi"]
    assert decode(of("FP32"), {"input": {"x": []}}).shapes == ((0,),)
    assert decode(WHOLE, {"input": {"m": [[1], [2]]}}).shapes == ((2, 1),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"input": {"x": [1, 2, 3, 4]}}, "nested as shape [2, 2], got shape [4]"),
        ({"input": {"x": 1}}, "nested as shape [2, 2], got an integer"),
        ({"input": {"x": [[1, 2], [3]]}}, "expected 2 items at depth 1, got 1"),
        ({"input": {}}, "input 'x' is missing"),
        ({"input": {"q": 1}}, "no input 'q'"),
        ({"input": []}, "input must be an object"),
        ({"input": {"x": [[1, 2], [3, 4]]}, "inputs": []}, "not both"),
        (
            {"input": {"x": [[1, 2], [3, 4]]}, "parameters": {"binary_data_output": True}},
            "no binary data and no class",
        ),
    ],
)
def test_a_wrong_shorthand_is_refused(content: Any, words: str) -> None:
    assert words in refusal(FP32, content).message


FLAT = of("FP32", (3,))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"id": "s"},
        {"parameters": {"priority": 2, "timeout": 5_000_000, "explain": True, "mine": "m"}},
        {"outputs": [{"name": "z"}]},
        {"parameters": None, "outputs": None},
    ],
)
@pytest.mark.parametrize("values", [[1.5, -2.0, 3.0], [1, 2, 3]])
def test_a_shorthand_is_the_same_as_its_row_among_inputs(values: list[float], more: dict[str, Any]) -> None:
    short = decode(FLAT, {"input": {"x": values}, **more})
    usual = decode(FLAT, {"inputs": [item(values, [1, 3])], **more})
    assert short.wire == ReplyForm(shorthand=True)
    for request in (short, usual):
        assert tensor(request, FLAT).tolist() == [values]
    names = ("rows", "shapes", "nbytes", "id", "deadline", "priority", "explain", "parameters", "requested")
    assert [getattr(short, name) for name in names] == [getattr(usual, name) for name in names]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"input": {"x": [1, 2]}}, "nested as shape [3], got shape [2]"),
        ({"input": {"x": [1, True, 3]}}, "element 1 must be a number"),
        ({"input": {"x": [1, 1e39, 3]}}, "1e+39"),
        ({"input": {"x": [1, 2, 3], "q": 1}}, "no input 'q'"),
        ({"input": {"x": [1, 2, 3]}, "inputs": []}, "not both"),
        ({"input": {"x": [1, 2, 3]}, "parameters": {"binary_data_output": True}}, "no binary data and no class"),
    ],
)
def test_a_wrong_shorthand_of_a_flat_row_is_refused(content: Any, words: str) -> None:
    assert words in refusal(FLAT, content).message


def test_an_image_body_is_one_row() -> None:
    request = BodyDecoder(TEXT).decode_image(b"\x89PNG", 0.0, ignore)
    assert tensor(request, TEXT).tolist() == [b"\x89PNG"]
    assert request.wire == ReplyForm(shorthand=True)
    with pytest.raises(RequestError, match="exactly one BYTES input"):
        BodyDecoder(FP32).decode_image(b"\x89PNG", 0.0, ignore)
