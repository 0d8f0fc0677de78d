"""Whatever arrives, decoding gives a request or a RequestError with a message, and nothing else."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.api.decode import BodyDecoder
from forebay.api.general import read_body
from forebay.api.problems import problem_of
from forebay.core.errors import RequestError
from forebay.core.request import Request, payload_array
from forebay.core.tensors import NUMPY_TYPES, pack_bytes
from forebay.models.signature import Signature, TensorSpec

OUTPUTS = (TensorSpec("y", "FP32", (2,)),)
SIGNATURES = [
    Signature((TensorSpec("x", "FP32", (2, 2)),), OUTPUTS),
    Signature((TensorSpec("x", "FP32", (-1,)), TensorSpec("b", "UINT64", (2,))), OUTPUTS),
    Signature((TensorSpec("x", "BYTES", ()), TensorSpec("b", "BOOL", ())), OUTPUTS),
    Signature((TensorSpec("x", "FP16", (2, -1)),), OUTPUTS, batched=False),
    Signature((TensorSpec("x", "INT8", ()),), OUTPUTS, batched=False),
]
DECODERS = [BodyDecoder(signature, max_json_depth=16) for signature in SIGNATURES]


def survives(body: bytes, header_length: int | None) -> int:
    """How many of the models take this body. Fails on any exception but a RequestError that can be answered."""
    taken = 0
    refusals: list[RequestError] = []
    for decoder, signature in zip(DECODERS, SIGNATURES, strict=True):
        try:
            request = decoder.decode(body, 0.0, lambda _: None, header_length)
        except RequestError as error:
            refusals.append(error)
        else:
            check(request, signature)
            taken += 1
    assert all(error.message and problem_of(error).status in (400, 501) for error in refusals)
    return taken


def check(request: Request, signature: Signature) -> None:
    """The payloads of an accepted request really are tensors of its shapes."""
    assert request.rows >= 0
    for spec, payload, shape in zip(signature.inputs, request.inputs, request.shapes, strict=True):
        whole = (request.rows, *shape) if signature.batched else shape
        assert payload_array(payload, spec.datatype, whole).shape == whole
    request.id.encode()
    assert all(isinstance(value, str | int | float | bool) for value in (request.parameters or {}).values())


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "b", "y", "FP32", "BYTES", "UINT64", "INT8", 2**31, 2**63, 2**64, 10**400, -1, "\ud800"])
)
keys = st.sampled_from(
    [
        "inputs",
        "input",
        "name",
        "shape",
        "datatype",
        "data",
        "parameters",
        "outputs",
        "id",
        "binary_data_size",
        "x",
        "timeout",
    ]
) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "b"]) | scalars,
        "shape": st.lists(st.sampled_from([0, 1, 2]) | scalars, max_size=4) | values,
        "datatype": st.sampled_from(list(NUMPY_TYPES)) | scalars,
    },
    optional={"data": values, "parameters": st.dictionaries(keys, scalars, max_size=3) | values},
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | values},
    optional={"outputs": values, "parameters": values, "id": scalars, "input": values},
)


@settings(max_examples=300, deadline=None)
@given(bodies | values, st.none() | st.integers(0, 400), st.binary(max_size=40))
def test_any_json_is_a_request_or_a_refusal(body: Any, header_length: int | None, tail: bytes) -> None:
    head = json.dumps(body).encode()
    survives(head, None)
    survives(head + tail, len(head) if header_length is None else header_length)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 220))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes, header_length: int | None) -> None:
    survives(body, header_length)


def good_bodies() -> list[tuple[bytes, int | None]]:
    """One body of each kind that some of the models take."""

    def tensor(name: str, datatype: str, shape: list[int], **rest: Any) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": shape, **rest}

    flat = [tensor("x", "FP32", [1, 2, 2], data=[1, -2.5e3, 0.5, 4])]
    pair = [tensor("b", "UINT64", [1, 2], data=[[7, 8]]), tensor("x", "FP32", [1, 3], data=[1, 2, 3])]
    text = [tensor("x", "BYTES", [2], data=["a\u00e4", ""]), tensor("b", "BOOL", [2], data=[True, False])]
    asked = {"timeout": 1000, "priority": 1, "mode": "a", "binary_data_output": True}
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    found: list[tuple[bytes, int | None]] = []
    for document in (
        {"inputs": flat},
        {"inputs": flat, "id": "r", "parameters": asked, "outputs": outputs},
        {"inputs": pair},
        {"inputs": text},
        {"inputs": [tensor("x", "FP16", [2, 3], data=[[1, 2, 3], [4, 5, 6]])]},
        {"inputs": [tensor("x", "INT8", [], data=[5])]},
        {"input": {"x": [[1, 2], [3, 4]]}},
    ):
        found.append((json.dumps(document).encode(), None))
    found.append((found[0][0].replace(b"0.5", b"NaN"), None))
    packed = pack_bytes([b"ab", b""])
    binary = [
        tensor("x", "BYTES", [2], parameters={"binary_data_size": len(packed)}),
        tensor("b", "BOOL", [2], parameters={"binary_data_size": 2}),
    ]
    head = json.dumps({"inputs": binary}).encode()
    found.append((head + packed + b"\x00\x01", len(head)))
    head = json.dumps({"inputs": [tensor("x", "FP32", [2, 2, 2], parameters={"binary_data_size": 32})]}).encode()
    found.append((head + np.arange(8, dtype=np.float32).tobytes(), len(head)))
    return found


@pytest.mark.parametrize(("body", "header_length"), good_bodies())
def test_the_seeds_of_the_mutations_are_taken(body: bytes, header_length: int | None) -> None:
    assert survives(body, header_length) >= 1


def mutated(body: bytes, rng: random.Random) -> bytes:
    """A body with one to four random cuts, flips, repeats or insertions of tokens."""
    tokens = [
        b"NaN",
        b"-",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b'"',
        b"\xff",
        b"1e999",
        b"\\ud800",
        b"null",
        b"true",
        b"9" * 30,
    ]
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        choice = rng.randrange(5)
        if choice == 0:
            del data[at : at + rng.randint(1, 9)]
        elif choice == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif choice == 2:
            data[at:at] = rng.choice(tokens)
        elif choice == 3:
            data[at:at] = data[at : at + rng.randint(1, 30)]
        else:
            del data[at:]
    return bytes(data)


def run_mutations(count: int, seed: int) -> None:
    rng = random.Random(seed)
    seeds = good_bodies()
    for _ in range(count):
        body, header_length = rng.choice(seeds)
        if header_length is not None and rng.random() < 0.3:
            header_length = rng.randrange(len(body) + 5)
        survives(mutated(body, rng), header_length)


def test_mutated_bodies() -> None:
    run_mutations(4_000, 11)


@pytest.mark.full
def test_many_mutated_bodies() -> None:
    run_mutations(100_000, 12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4), st.booleans())
def test_the_two_ways_agree(numbers: list[float], nested: bool) -> None:
    data: Any = [[numbers[:2], numbers[2:]]] if nested else numbers
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2, 2], "datatype": "FP32", "data": data}]}).encode()
    request = DECODERS[0].decode(body, 0.0, lambda _: None)
    read = read_body(body, None, SIGNATURES[0], 16)
    assert request.inputs == read.payloads
    assert request.inputs == [numbers]
