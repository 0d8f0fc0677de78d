"""Lanes and lengths of requests, and the pieces of large ones."""

from __future__ import annotations

import pytest
from tests.unit.engine.requests import nothing, request

from forebay.core.request import Request
from forebay.core.tensors import pack_bytes
from forebay.engine.split import is_fixed, lane_and_length, split
from forebay.models.signature import Signature, TensorSpec

OUT = (TensorSpec("y", "FP32", (1,)),)
FIXED = Signature((TensorSpec("x", "FP32", (2, 3)),), OUT)
VARIABLE = Signature((TensorSpec("x", "FP32", (-1, 3)), TensorSpec("mask", "BOOL", (-1,))), OUT)
TEXT = Signature((TensorSpec("t", "BYTES", (1,)),), OUT)
TEXTS = Signature((TensorSpec("t", "BYTES", (-1,)),), OUT)


def placed(signature: Signature, pads: bool, item: Request) -> Request:
    lane_and_length(signature, pads, item)
    return item


def variable(length: int, rows: int = 1) -> Request:
    return request([bytes(12 * length * rows), bytes(length * rows)], [(length, 3), (length,)], rows)


@pytest.mark.parametrize(("signature", "fixed"), [(FIXED, True), (VARIABLE, False), (TEXT, False), (TEXTS, False)])
def test_which_signatures_need_lanes_or_lengths(signature: Signature, fixed: bool) -> None:
    assert is_fixed(signature) is fixed


def test_one_lane_and_no_length_for_fixed_shapes() -> None:
    item = placed(FIXED, False, request([bytes(24)], [(2, 3)]))
    assert (item.lane, item.length) == (None, 0)


def test_variable_shapes_share_a_lane_only_where_the_model_pads() -> None:
    assert placed(VARIABLE, True, variable(5)).lane == placed(VARIABLE, True, variable(6)).lane
    assert placed(VARIABLE, False, variable(5)).lane != placed(VARIABLE, False, variable(6)).lane
    assert placed(VARIABLE, False, variable(5)).lane == placed(VARIABLE, False, variable(5, 4)).lane


def test_length_is_the_longest_variable_axis() -> None:
    assert placed(VARIABLE, True, request([b"", b""], [(5, 3), (9,)])).length == 9


@pytest.mark.parametrize("pads", [True, False])
def test_an_empty_row_is_not_taken_for_one_of_a_fixed_shape(pads: bool) -> None:
    assert placed(VARIABLE, pads, variable(0)).length == 1
    assert placed(TEXTS, pads, request([b""], [(0,)])).length == 1
    assert placed(FIXED, pads, request([bytes(24)], [(2, 3)])).length == 0


def test_length_of_text_is_its_bytes_a_row() -> None:
    item = placed(TEXT, False, request([pack_bytes([b"a" * 96, b"b" * 96])], [(1,)], 2))
    assert (item.length, item.lane) == (100, None)


def test_texts_of_different_shapes_never_share_a_lane() -> None:
    one = placed(TEXTS, True, request([pack_bytes([b"a"])], [(1,)]))
    two = placed(TEXTS, True, request([pack_bytes([b"a", b"b"])], [(2,)]))
    assert one.lane != two.lane


def test_pieces_carry_on_what_the_request_was() -> None:
    whole = variable(2, rows=5)
    whole.explain, whole.priority, whole.length, whole.lane = True, 1, 2, "lane"
    pieces = split(VARIABLE, whole, 2, nothing)
    assert [piece.rows for piece in pieces] == [2, 2, 1]
    assert [[len(payload) for payload in piece.inputs] for piece in pieces] == [[48, 4], [48, 4], [24, 2]]
    for piece in pieces:
        assert piece.pieces is whole
        assert (piece.deadline, piece.arrived, piece.shapes) == (whole.deadline, whole.arrived, whole.shapes)
        assert (piece.explain, piece.priority, piece.length, piece.lane) == (True, 1, 2, "lane")
        assert piece.on_done is nothing
    assert sum(piece.nbytes for piece in pieces) <= whole.nbytes
