"""Two requests have one key only where their answers must be the same."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.cache.made import ONE, request

from forebay.cache.key import KeyMaker, digest_of, digest_of_id, entry_id
from forebay.core.request import Payload, Request
from forebay.core.tensors import NUMPY_TYPES, pack_bytes
from forebay.models.signature import Signature, TensorSpec

FIXED = [name for name in NUMPY_TYPES if name != "BYTES"]


class Asked(NamedTuple):
    """All that a key depends on."""

    model: str
    version: str
    digest: str
    tenant: str
    inputs: tuple[tuple[str, str, tuple[int, ...], bytes], ...]
    """Name, datatype, row shape, bytes."""
    rows: int
    outputs: tuple[tuple[str, str], ...]
    requested: tuple[int, ...] | None
    parameters: tuple[tuple[str, Any], ...]


def key(asked: Asked) -> bytes:
    specs = tuple(TensorSpec(name, datatype, (-1,) * len(shape)) for name, datatype, shape, _ in asked.inputs)
    out = tuple(TensorSpec(name, datatype, (1,)) for name, datatype in asked.outputs)
    maker = KeyMaker(asked.model, asked.version, asked.digest, Signature(specs, out))
    made = request([data for *_, data in asked.inputs], [shape for _, _, shape, _ in asked.inputs], asked.rows)
    made.requested = asked.requested
    made.parameters = dict(asked.parameters) or None
    return maker.of(made, asked.tenant)


# Few and short values, so that different requests are often nearly the same.
names = st.sampled_from(["a", "b", "ab", "a\x00", ""])
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
data = st.binary(max_size=12) | st.sampled_from([b"\x00" * 8, b"\x00" * 4, struct.pack("<Q", 4) + b"abcd"])
inputs = st.lists(
    st.tuples(names, st.sampled_from(list(NUMPY_TYPES)), shapes, data),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[0],
).map(tuple)
scalars = st.sampled_from([0, 1, True, False, 1.0, 0.0, -0.0, "1", "", "a"])
asked = st.builds(
    Asked,
    model=names,
    version=names,
    digest=names,
    tenant=names,
    inputs=inputs,
    rows=st.integers(1, 4),
    outputs=st.lists(st.tuples(names, st.sampled_from(["FP32", "FP64"])), min_size=1, max_size=2).map(tuple),
    requested=st.none() | st.lists(st.integers(0, 2), unique=True, max_size=2).map(tuple),
    parameters=st.dictionaries(names, scalars, max_size=2).map(lambda found: tuple(sorted(found.items()))),
)


def same(one: Asked, other: Asked) -> bool:
    """Equal, and of equal types: True is not 1, and 0.0 is not -0.0. The order of inputs is of no account."""
    plain = [item._replace(inputs=tuple(sorted(item.inputs))) for item in (one, other)]
    return repr(plain[0]) == repr(plain[1])


@given(asked, asked)
def test_different_requests_have_different_keys(one: Asked, other: Asked) -> None:
    assert (key(one) == key(other)) is same(one, other)


@given(asked, asked, st.sampled_from(Asked._fields))
def test_one_thing_that_differs_makes_another_key(one: Asked, other: Asked, field: str) -> None:
    changed = one._replace(**{field: getattr(other, field)})
    assume(not same(one, changed))
    assert key(one) != key(changed)


@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_numbers_as_json_and_as_binary_have_one_key(values: list[float]) -> None:
    maker = KeyMaker("m", "1", "d", ONE)
    as_list = request([values], [(2,)])
    as_bytes = request([np.array(values, "<f4").tobytes()], [(2,)])
    assert maker.of(as_list, "") == maker.of(as_bytes, "")
    assert as_list.inputs == as_bytes.inputs  # packed once, for the engine too


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_the_kind_of_buffer_is_of_no_account(form: Any) -> None:
    maker = KeyMaker("m", "1", "d", ONE)
    payload: Payload = form(b"12345678")
    assert maker.of(request([payload], [(2,)]), "") == maker.of(request([b"12345678"], [(2,)]), "")


def test_what_does_not_change_an_answer_is_no_part_of_it() -> None:
    maker = KeyMaker("m", "1", "d", ONE)
    plain = request([b"12345678"], [(2,)])
    other = request([b"12345678"], [(2,)], id="7", priority=3, deadline=1.0, arrived=0.5, wire="binary", behind_s=1.0)
    assert maker.of(plain, "") == maker.of(other, "")


def test_zero_and_minus_zero_differ() -> None:
    maker = KeyMaker("m", "1", "d", ONE)
    assert maker.of(request([[0.0, 1.0]], [(2,)]), "") != maker.of(request([[-0.0, 1.0]], [(2,)]), "")


def test_elements_of_text_do_not_run_together() -> None:
    maker = KeyMaker("m", "1", "d", Signature((TensorSpec("t", "BYTES", (2,)),), ONE.outputs))

    def of(*words: str) -> bytes:
        return maker.of(request([pack_bytes(words)], [(2,)]), "")

    assert len({of("ab", "c"), of("a", "bc"), of("abc", ""), of("", "abc")}) == 4


def test_a_number_that_does_not_fit_is_for_the_engine_to_refuse() -> None:
    with pytest.raises((struct.error, OverflowError)):
        KeyMaker("m", "1", "d", ONE).of(request([[1e300, 0.0]], [(2,)]), "")


def test_heads_that_are_remembered_do_not_mix() -> None:
    maker = KeyMaker("m", "1", "d", Signature((TensorSpec("x", "UINT8", (-1,)),), ONE.outputs))
    seen: dict[bytes, tuple[int, int, str]] = {}
    for tenant in ("", "a"):
        for width in range(1, 600):
            for rows in (1, 2):
                made = request([b"z" * 600], [(width,)], rows)
                assert seen.setdefault(maker.of(made, tenant), (width, rows, tenant)) == (width, rows, tenant)
    assert len(seen) == 2 * 599 * 2


@given(st.binary())
def test_an_id_stands_for_the_digest_of_a_key(key: bytes) -> None:
    assert digest_of_id(entry_id(digest_of(key))) == digest_of(key)


@pytest.mark.parametrize("id", ["", "a", "é" * 43, "=" * 43, "A" * 42, "A" * 44, "!" * 43, "A" * 42 + "B"])
def test_what_is_no_id_stands_for_nothing(id: str) -> None:
    assert digest_of_id(id) is None


@given(st.integers(480, 560), st.integers(480, 560), st.binary(min_size=1, max_size=1))
def test_a_long_request_has_a_digest_for_a_key(length: int, other: int, byte: bytes) -> None:
    maker = KeyMaker("m", "1", "d", Signature((TensorSpec("x", "UINT8", (-1,)),), ONE.outputs))
    long = [maker.of(request([byte * size], [(size,)]), "") for size in (length, other)]
    assert (long[0] == long[1]) == (length == other)
    assert [len(key) == 32 for key in long] == [length > 512, other > 512]


def test_rows_count_too() -> None:
    """A batched signature's shapes are those of rows."""
    maker = KeyMaker("m", "1", "d", Signature((TensorSpec("x", "FP32", (-1,)),), ONE.outputs))
    keys = {maker.of(_flat(rows, 4 // rows), "") for rows in (1, 2, 4)}
    assert len(keys) == 3


def test_one_after_the_other_with_the_same_shapes() -> None:
    """Shapes that are the same object are not looked at twice; all else is."""
    maker = KeyMaker("m", "1", "d", ONE)
    shapes = ((2,),)

    def of(tenant: str = "", rows: int = 1, **more: Any) -> bytes:
        made = request([b"12345678"], [], rows, **more)
        made.shapes = shapes
        return maker.of(made, tenant)

    again = [of(), of("a"), of(rows=2), of(requested=(0,)), of(parameters={"a": 1}), of(parameters={}), of()]
    assert len(set(again)) == 5
    assert again[0] == again[5] == again[6]


def _flat(rows: int, width: int) -> Request:
    return request([[1.0] * 4], [(width,)], rows)
