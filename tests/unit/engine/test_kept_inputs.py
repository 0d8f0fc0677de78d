"""Inputs kept of live requests, to measure with: copies, bounded, in the form that a request has."""

from __future__ import annotations

import struct

from tests.unit.engine.requests import request

from forebay.engine import kept_inputs
from forebay.engine.frames import InputPart
from forebay.engine.kept_inputs import KeptInputs, kept_of
from forebay.models.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),))


def test_what_is_kept_is_a_copy_in_binary_form() -> None:
    kept = KeptInputs()
    memory = bytearray(struct.pack("<2f", 1, 2))
    kept.offer(SIGNATURE, request([memoryview(memory)], [(2,)], 1))
    kept.offer(SIGNATURE, request([[3.0, 4.0, 5.0, 6.0]], [(2,)], 2))
    memory[:] = bytes(8)
    first, second = kept.all()
    assert (first.payloads, first.shapes, first.rows) == ([struct.pack("<2f", 1, 2)], [(2,)], 1)
    assert (second.payloads, second.rows) == ([struct.pack("<4f", 3, 4, 5, 6)], 2)


def test_the_oldest_make_room_by_number_and_by_bytes() -> None:
    kept = KeptInputs()
    for value in range(kept_inputs.MOST + 10 * kept_inputs.EVERY):
        kept.offer(SIGNATURE, request([[float(value), 0.0]], [(2,)], 1))
    assert len(kept.all()) == kept_inputs.MOST
    firsts = [struct.unpack("<2f", item.payloads[0])[0] for item in kept.all()]
    assert len(set(firsts)) == kept_inputs.MOST
    assert sum(value >= kept_inputs.MOST for value in firsts) == 10, "from then on one in so many"
    large = bytes(kept_inputs.MOST_BYTES // 2)
    for _ in range(3 * kept_inputs.EVERY):
        kept.offer(SIGNATURE, request([large], [(len(large) // 4,)], 1))
    assert sum(item.nbytes for item in kept.all()) <= kept_inputs.MOST_BYTES


def test_very_large_requests_are_passed_over() -> None:
    kept = KeptInputs()
    kept.offer(SIGNATURE, request([[0.0] * 2 * 65], [(2,)], 65))
    kept.offer(SIGNATURE, request([bytes(kept_inputs.MOST_BYTES + 4)], [(1,)], 1))
    assert kept.all() == []


def test_inputs_that_an_instance_shows_are_cut_by_request() -> None:
    parts = [[InputPart([(2,)], 8, -1), InputPart([()], 1, -1)], [InputPart([(1,)], 4, -1), InputPart([()], 1, -1)]]
    first, second = kept_of(parts, memoryview(b"aaaabbbbcddddE"))
    assert (first.payloads, first.shapes) == ([b"aaaabbbb", b"c"], [(2,), ()])
    assert (second.payloads, second.rows) == ([b"dddd", b"E"], 1)
