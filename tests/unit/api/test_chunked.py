"""Large bodies decoded in steps give the same requests and the same refusals as in one go."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forebay.api.chunked import PIECE_BYTES
from forebay.api.decode import BodyDecoder
from forebay.api.endpoint import Endpoint
from forebay.core.errors import RequestError
from forebay.core.request import Request, payload_array
from forebay.models.signature import Signature, TensorSpec

OUTPUTS = (TensorSpec("y", "FP32", (2,)),)
ONE = Signature((TensorSpec("x", "FP32", (10,)),), OUTPUTS)
TWO = Signature((TensorSpec("x", "FP32", (10,)), TensorSpec("n", "INT16", (2,))), OUTPUTS)
ROWS = 5_000
NUMBERS = np.random.default_rng(3).standard_normal((ROWS, 10)).astype(np.float32)


def ignore(_: Request) -> None:
    """Nothing waits for these requests."""


def in_steps(signature: Signature, body: bytes) -> tuple[Request, int]:
    """The request, and in how many steps it was decoded."""
    steps = BodyDecoder(signature).decode_in_steps(body, 0.0, ignore)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def numbers_text(values: Any = NUMBERS) -> str:
    return ",".join(map(repr, np.asarray(values).reshape(-1).tolist()))


def large(data: str, rows: int = ROWS, rest: str = "") -> bytes:
    entry = f'{{"name":"x","datatype":"FP32","shape":[{rows},10],"data":[{data}]}}'
    return f'{{"inputs":[{entry}]{rest}}}'.encode()


def test_a_large_body_takes_many_steps() -> None:
    body = large(numbers_text(), rest=',"id":"a","parameters":{"timeout":1000}')
    request, count = in_steps(ONE, body)
    assert count > len(body) // PIECE_BYTES - 2 > 10
    np.testing.assert_array_equal(payload_array(request.inputs[0], "FP32", (ROWS, 10)), NUMBERS)
    assert (request.rows, request.shapes, request.nbytes, request.id) == (ROWS, ((10,),), ROWS * 40, "a")
    assert request.deadline == pytest.approx(0.001)


@pytest.mark.parametrize("space", ["", " ", "\n "])
def test_nested_data_takes_many_steps(space: str) -> None:
    signature = Signature((TensorSpec("x", "FP32", (2, 5)),), OUTPUTS)
    text = json.dumps(NUMBERS.reshape(ROWS, 2, 5).tolist(), separators=("," + space, ":"))
    text = text.replace("]]", "]" + space + "]")
    entry = f'{{"name":"x","datatype":"FP32","data":{text}{space},"shape":[{ROWS},2,5]}}'
    request, count = in_steps(signature, f'{{"inputs":[{entry}]}}'.encode())
    assert count > 10
    np.testing.assert_array_equal(payload_array(request.inputs[0], "FP32", (ROWS, 10)), NUMBERS)


def test_two_inputs_each_in_its_place() -> None:
    counts = np.arange(ROWS * 2, dtype=np.int16).reshape(ROWS, 2)
    second = f'{{"name":"n","datatype":"INT16","shape":[{ROWS},2],"data": [{numbers_text(counts)}]}}'
    body = large(numbers_text()).replace(b"}]}", b"}," + second.encode() + b"]}")
    request, count = in_steps(TWO, body)
    assert count > 10
    np.testing.assert_array_equal(payload_array(request.inputs[0], "FP32", (ROWS, 10)), NUMBERS)
    np.testing.assert_array_equal(payload_array(request.inputs[1], "INT16", (ROWS, 2)), counts)


def outcome(run: Callable[[bytes], Request], body: bytes) -> Any:
    """What became of a body: its tensor's bytes and its id, or the error's message."""
    try:
        request = run(body)
    except RequestError as error:
        return error.message
    return payload_array(request.inputs[0], "FP32", (request.rows, 10)).tobytes(), request.id, request.deadline


def whole(body: bytes) -> Request:
    return BodyDecoder(ONE).decode(body, 0.0, ignore)


def stepped(body: bytes) -> Request:
    return in_steps(ONE, body)[0]


@pytest.mark.parametrize(
    "body",
    [
        large("[" + "],[".join(numbers_text(row) for row in NUMBERS) + "]"),
        large("NaN," + numbers_text(NUMBERS.reshape(-1)[1:])),
        large(numbers_text(), rest=',"outputs":[{"name":"y","data":[1,2]}]'),
        large(numbers_text(), rest=',"id":"\\"data\\":[1,2]"'),
        large(numbers_text(), rest=',"model_name":"x"'),
    ],
)
def test_unusual_bodies_are_taken_just_the_same(body: bytes) -> None:
    assert isinstance(outcome(whole, body), tuple)
    assert outcome(stepped, body) == outcome(whole, body)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"]}", b",]}"),
        (b"]}", b", ]}"),
        (b"]}", b",1]}"),
        (b'"data":[', b'"data":[,'),
        (b'"data":[', b'"data":[1,'),
        (b'"data":[', b'"data":[1e39,'),
        (b'"data":[', b'"data":["a",'),
        (b'"data":[', b'"data":[1 '),
        (b"]}", b"]"),
        (b'"shape":[5', b'"shape":[6'),
    ],
)
def test_errors_are_those_of_the_ordinary_decode(old: bytes, new: bytes) -> None:
    body = large(numbers_text()).replace(old, new, 1)
    assert isinstance(outcome(whole, body), str)
    assert outcome(stepped, body) == outcome(whole, body)


@pytest.mark.parametrize("nested", [False, True])
def test_random_cuts_and_flips_agree(nested: bool) -> None:
    rng = random.Random(5)
    rows = NUMBERS[:2000]
    body = large("[" + "],[".join(map(numbers_text, rows)) + "]" if nested else numbers_text(rows), len(rows))
    for _ in range(100):
        data = bytearray(body)
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.choice(b'0,]["} -.e')
        else:
            del data[at : at + rng.randint(1, 40)]
        assert outcome(stepped, bytes(data)) == outcome(whole, bytes(data))


async def test_steps_in_turns_of_the_event_loop(engines: Any) -> None:
    endpoint = Endpoint(engines["mlp"], 64)
    loop = asyncio.get_running_loop()
    values = NUMBERS.reshape(-1, 4)
    body = large(numbers_text(), len(values)).replace(b",10]", b",4]")
    for content in (body, bytearray(body), body[:-1]):
        turns = 0
        done: asyncio.Future[Request | Exception] = loop.create_future()
        endpoint.read_elsewhere(content, 0.0, ignore, None, None, done.set_result)
        while not done.done():
            turns += 1
            await asyncio.sleep(0)
        result = done.result()
        if content == body:
            assert isinstance(result, Request)
            assert turns > 10
            np.testing.assert_array_equal(payload_array(result.inputs[0], "FP32", values.shape), values)
        else:
            assert isinstance(result, RequestError)
