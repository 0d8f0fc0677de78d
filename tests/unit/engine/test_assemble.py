"""Requests to a batch's payloads and back, for each form of payload."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.requests import nothing, request

from forebay.core.request import Outputs, Payload, Request, output_array
from forebay.core.tensors import NUMPY_TYPES, Array, pack_bytes, to_buffer, unpack_bytes
from forebay.engine import assemble
from forebay.engine.frames import OutputPart, PieceHeader
from forebay.engine.split import split
from forebay.models.signature import Signature, TensorSpec

FLOATS = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),))
RAGGED = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),))


def outputs(signature: Signature, array: Array, rows: int) -> Outputs:
    specs = signature.outputs
    return Outputs([s.name for s in specs], [s.datatype for s in specs], [array], rows)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_lists_and_buffers_in_one_batch_keep_their_order(datatype: str) -> None:
    signature = Signature((TensorSpec("x", datatype, (2,)),), (TensorSpec("y", datatype, (2,)),))
    dtype = NUMPY_TYPES[datatype]
    payloads: list[Payload] = [
        [1.0, 2.0],
        [3.0, 4.0],
        np.array([5, 6], dtype).tobytes(),
        [7.0, float("inf")],
        memoryview(np.array([9, 10], dtype).tobytes()),
        bytearray(np.array([11, 12], dtype).tobytes()),
        [13.0, -0.0],
    ]
    parts, counts, groups = assemble.gather(signature, [request([payload], [(2,)]) for payload in payloads])
    joined = b"".join(map(bytes, groups[0]))
    assert counts == []
    assert parts[0].nbytes == len(joined)
    assert list(map(tuple, parts[0].shapes)) == [(2,)]
    assert np.frombuffer(joined, dtype).tolist() == [1, 2, 3, 4, 5, 6, 7, float("inf"), 9, 10, 11, 12, 13, 0]
    assert np.signbit(np.frombuffer(joined, dtype)[-1])


def test_nan_survives() -> None:
    _, _, groups = assemble.gather(FLOATS, [request([[float("nan"), 1.0]], [(2,)])])
    assert np.isnan(np.frombuffer(groups[0][0], "<f4")).tolist() == [True, False]


def test_different_row_shapes_are_told_apart() -> None:
    items = [request([to_buffer(np.arange(n), "INT64")], [(n,)], 1) for n in (3, 1)]
    items.append(request([to_buffer(np.arange(8), "INT64")], [(4,)], 2))
    parts, counts, _ = assemble.gather(RAGGED, items)
    assert counts == [1, 1, 2]
    assert list(map(tuple, parts[0].shapes)) == [(3,), (1,), (4,)]


def test_equal_row_shapes_need_no_counts() -> None:
    items = [request([to_buffer(np.arange(3), "INT64")], [(3,)]) for _ in range(3)]
    parts, counts, _ = assemble.gather(RAGGED, items)
    assert counts == []
    assert len(parts[0].shapes) == 1


def test_scatter_takes_outputs_from_the_frame_and_from_the_arena() -> None:
    specs = (
        TensorSpec("a", "FP32", (2,)),
        TensorSpec("b", "BYTES", (1,)),
        TensorSpec("c", "BOOL", ()),
        TensorSpec("d", "UINT8", (0,)),
    )
    signature = Signature((TensorSpec("x", "FP32", (2,)),), specs)
    floats = np.arange(4, dtype="<f4").reshape(2, 2)
    texts = pack_bytes([b"", b"\xff\x00"])
    arena = bytearray(b"...." + floats.tobytes())
    parts = [
        OutputPart([2, 2], 16, 4),
        OutputPart([2, 1], len(texts), -1),
        OutputPart([2], 2, -1),
        OutputPart([2, 0], 0, -1),
    ]
    found = assemble.scatter(signature, parts, memoryview(texts + b"\1\0"), memoryview(arena), 2)
    arena[:] = bytes(len(arena))  # the slot is used again
    assert found.arrays[0].tolist() == floats.tolist()
    assert found.arrays[1].tolist() == [[b""], [b"\xff\x00"]]
    assert found.arrays[2].tolist() == [True, False]
    assert found.arrays[3].shape == (2, 0)
    assert (found.rows, list(found.names), list(found.datatypes)) == (
        2, ["a", "b", "c", "d"], ["FP32", "BYTES", "BOOL", "UINT8"]
    )  # fmt: skip


@pytest.mark.parametrize("part", [OutputPart([2, 2], 12, -1), OutputPart([3, 2], 16, -1)])
def test_an_answer_whose_size_is_not_its_shape_raises(part: OutputPart) -> None:
    with pytest.raises(ValueError):
        assemble.scatter(FLOATS, [part], memoryview(bytes(16)), memoryview(b""), 2)


def test_an_answer_with_a_part_missing_raises() -> None:
    with pytest.raises(ValueError):
        assemble.scatter(FLOATS, [], memoryview(b""), memoryview(b""), 2)


def test_the_answer_to_no_rows() -> None:
    signature = Signature(FLOATS.inputs, (TensorSpec("y", "FP32", (2, -1)), TensorSpec("z", "BYTES", (3,))))
    found = assemble.empty_outputs(signature)
    assert [array.shape for array in found.arrays] == [(0, 2, 0), (0, 3)]
    assert [array.dtype for array in found.arrays] == [np.dtype("<f4"), np.dtype(object)]
    assert found.rows == 0


@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 10), st.sampled_from([*NUMPY_TYPES, "list"]))
def test_split_then_joined_is_what_it_was(rows: int, width: int, limit: int, form: str) -> None:
    datatype = "FP32" if form == "list" else form
    signature = Signature((TensorSpec("x", datatype, (width,)),), (TensorSpec("y", datatype, (width,)),))
    whole: Array
    payload: Payload
    if datatype == "BYTES":
        whole = np.array([b"x" * (i % 5) for i in range(rows * width)] or [b""], object)[: rows * width]
        payload = pack_bytes(whole.tolist())
    else:
        whole = (np.arange(rows * width) % 2).astype(NUMPY_TYPES[datatype])
        payload = [float(v) for v in whole] if form == "list" else whole.tobytes()
    pieces = split(signature, request([payload], [(width,)], rows), limit, nothing)
    assert [piece.rows for piece in pieces] == [min(limit, rows - start) for start in range(0, rows, limit)]
    for piece in pieces:
        _, _, groups = assemble.gather(signature, [piece])
        buffer = b"".join(map(bytes, groups[0]))
        answer = OutputPart([piece.rows, width], len(buffer), -1)
        piece.outputs = assemble.scatter(signature, [answer], memoryview(buffer), memoryview(b""), piece.rows)
    joined = assemble.join(signature, pieces)
    assert joined.rows == rows
    assert joined.arrays[0].reshape(-1).tolist() == whole.tolist()
    assert joined.arrays[0].shape == (rows, width)


@given(st.lists(st.binary(max_size=6), max_size=12).filter(lambda values: len(values) % 2 == 0), st.data())
def test_cut_of_bytes_gives_whole_elements(values: list[bytes], data: st.DataObject) -> None:
    rows = len(values) // 2
    edges = sorted(data.draw(st.lists(st.integers(0, rows), min_size=1)))
    pieces = assemble.cut(pack_bytes(values), "BYTES", 2, edges)
    for piece, (start, stop) in zip(pieces, pairwise(edges), strict=True):
        assert not isinstance(piece, list)
        assert unpack_bytes(piece, 2 * (stop - start)) == values[2 * start : 2 * stop]


def answered(array: Array, row_start: int, rows: int, signature: Signature) -> Request:
    piece = request([b""], [()], rows)
    piece.outputs, piece.row_start = outputs(signature, array, len(array)), row_start
    return piece


def test_join_takes_each_piece_from_its_place_in_its_batch() -> None:
    first = answered(np.arange(8, dtype="<f4").reshape(4, 2), 1, 2, FLOATS)
    second = answered(np.arange(100, 104, dtype="<f4").reshape(2, 2), 1, 1, FLOATS)
    joined = assemble.join(FLOATS, [first, second])
    assert joined.arrays[0].tolist() == [[2, 3], [4, 5], [102, 103]]
    assert output_array(first, 0, True).tolist() == [[2, 3], [4, 5]]


def test_join_pads_ragged_pieces_with_zeros() -> None:
    pieces = [answered(np.ones((1, 2), "<i8"), 0, 1, RAGGED), answered(np.full((2, 3), 2, "<i8"), 0, 2, RAGGED)]
    assert assemble.join(RAGGED, pieces).arrays[0].tolist() == [[1, 1, 0], [2, 2, 2], [2, 2, 2]]


def test_join_pads_ragged_bytes_with_empty_ones() -> None:
    signature = Signature(RAGGED.inputs, (TensorSpec("y", "BYTES", (-1,)),))
    short, long = np.empty((1, 1), object), np.empty((1, 2), object)
    short[0, 0], long[0, :] = b"a", [b"b", b"c"]
    array = assemble.join(signature, [answered(short, 0, 1, signature), answered(long, 0, 1, signature)]).arrays[0]
    assert pack_bytes(array.reshape(-1).tolist()) == pack_bytes([b"a", b"", b"b", b"c"])


def test_join_of_pieces_of_different_rank_raises() -> None:
    pieces = [answered(np.ones((1, 2), "<i8"), 0, 1, RAGGED), answered(np.ones((1, 2, 2), "<i8"), 0, 1, RAGGED)]
    with pytest.raises(ValueError):
        assemble.join(RAGGED, pieces)


def test_a_piece_is_cut_into_its_rows_and_holds_some_of_the_outputs() -> None:
    specs = (TensorSpec("a", "FP32", ()), TensorSpec("t", "BYTES", ()), TensorSpec("n", "INT16", (-1,)))
    signature = Signature(specs[:1], specs)
    text, numbers = pack_bytes([b"x", b"yz"]), np.array([[1, 2, 3], [4, 5, 6]], "<i2").tobytes()
    parts = [OutputPart([2, 3], len(numbers), -1), OutputPart([2], len(text), -1)]
    found = assemble.scatter_rows(signature, PieceHeader(1, [4, 6], [2, 1], parts), memoryview(numbers + text))
    assert [(row.names, row.datatypes, row.rows) for row in found] == [(["n", "t"], ["INT16", "BYTES"], 1)] * 2
    assert [[array.tolist() for array in row.arrays] for row in found] == [
        [[[1, 2, 3]], [b"x"]],
        [[[4, 5, 6]], [b"yz"]],
    ]
    with pytest.raises(ValueError, match="holds other rows"):
        assemble.scatter_rows(signature, PieceHeader(1, [4], [2, 1], parts), memoryview(numbers + text))
