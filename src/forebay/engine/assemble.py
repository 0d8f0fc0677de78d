"""Requests to one batch's payloads, and a batch's answer back to arrays. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from forebay.core.request import Outputs, Payload, Request
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, element_count, stack_rows, unpack_bytes
from forebay.engine.frames import InputPart, OutputPart, PieceHeader
from forebay.models.signature import Signature, TensorSpec

Buffer = bytes | bytearray | memoryview
_LENGTH = struct.Struct("<I")
_LISTS = {list}
_FLOAT_CODES = {"FP32": "f", "FP64": "d"}


def gather(signature: Signature, items: Sequence[Request]) -> tuple[list[InputPart], list[int], list[list[Buffer]]]:
    """The batch's input parts (offsets still -1), the rows of each request where shapes differ, and the payloads."""
    parts: list[InputPart] = []
    groups: list[list[Buffer]] = []
    counts: list[int] = []
    for index, spec in enumerate(signature.inputs):
        buffers = buffers_of([item.inputs[index] for item in items], spec.datatype)
        shapes: list[Sequence[int]] = [items[0].shapes[index]]
        if spec.variable and any(item.shapes[index] != shapes[0] for item in items):
            shapes = [item.shapes[index] for item in items]
            counts = [item.rows for item in items]
        parts.append(InputPart(shapes, sum(map(len, buffers)), -1))
        groups.append(buffers)
    return parts, counts, groups


def buffers_of(payloads: list[Payload], datatype: str) -> list[Buffer]:
    """Payloads as they go into a frame; lists that stand side by side are packed together."""
    flat: list[float] = []
    if set(map(type, payloads)) == _LISTS:
        for payload in payloads:
            flat += payload
        return [_pack(flat, datatype)] if flat else []
    buffers: list[Buffer] = []
    for payload in payloads:
        if isinstance(payload, list):
            flat += payload
        else:
            if flat:
                buffers.append(_pack(flat, datatype))
                flat = []
            buffers.append(payload)
    if flat:
        buffers.append(_pack(flat, datatype))
    return buffers


def _pack(values: Sequence[float], datatype: str) -> bytes:
    # struct packs a short list twice as fast as numpy converts it.
    return struct.pack(f"<{len(values)}{_FLOAT_CODES[datatype]}", *values)


def scatter(
    signature: Signature, parts: Sequence[OutputPart], payload: memoryview, arena: memoryview, rows: int
) -> Outputs:
    """A batch's outputs as arrays. What lies in the arena is copied, since its slot is used again."""
    arrays: list[Array] = []
    position = 0
    for spec, part in zip(signature.outputs, parts, strict=True):
        data: Any
        if part.offset >= 0:
            data = bytes(arena[part.offset : part.offset + part.nbytes])
        else:
            data = payload[position : position + part.nbytes]
            position += part.nbytes
        arrays.append(_array(spec, part.shape, data))
    return Outputs(
        [spec.name for spec in signature.outputs], [spec.datatype for spec in signature.outputs], arrays, rows
    )


def scatter_rows(signature: Signature, header: PieceHeader, payload: memoryview) -> list[Outputs]:
    """A piece of the answers of some rows, as outputs of one row each: those outputs that it holds.

    Raises `ValueError` where it does not hold the rows that it names.
    """
    arrays: list[Array] = []
    position = 0
    specs = [signature.outputs[index] for index in header.indices]
    for spec, part in zip(specs, header.outputs, strict=True):
        arrays.append(_array(spec, part.shape, payload[position : position + part.nbytes]))
        position += part.nbytes
    if any(len(array) != len(header.rows) for array in arrays):
        raise ValueError(f"a piece of rows {header.rows} holds other rows")
    names, datatypes = [spec.name for spec in specs], [spec.datatype for spec in specs]
    return [
        Outputs(names, datatypes, [array[place : place + 1] for array in arrays], 1)
        for place in range(len(header.rows))
    ]


def _array(spec: TensorSpec, shape: Sequence[int], data: Any) -> Array:
    if spec.datatype == "BYTES":
        return bytes_array(unpack_bytes(data, element_count(shape), spec.name), shape)
    return np.frombuffer(data, NUMPY_TYPES[spec.datatype]).reshape(shape)


def empty_outputs(signature: Signature) -> Outputs:
    """The answer to a request of no rows: variable axes are 0 too."""
    arrays = [
        np.empty((0, *(max(0, axis) for axis in spec.row_shape)), NUMPY_TYPES[spec.datatype])
        for spec in signature.outputs
    ]
    return Outputs([s.name for s in signature.outputs], [s.datatype for s in signature.outputs], arrays, 0)


def cut(payload: Payload, datatype: str, row_elements: int, edges: Sequence[int]) -> list[Payload]:
    """One input's payload in pieces: the rows between each of the rising `edges` and the next. One walk for all."""
    if isinstance(payload, list):
        return [payload[start * row_elements : stop * row_elements] for start, stop in pairwise(edges)]
    view = memoryview(payload)
    if datatype != "BYTES":
        width = row_elements * NUMPY_TYPES[datatype].itemsize
        return [view[start * width : stop * width] for start, stop in pairwise(edges)]
    ends: list[int] = []
    position = element = 0
    for edge in edges:
        for _ in range(edge * row_elements - element):
            position += 4 + _LENGTH.unpack_from(view, position)[0]
        element = edge * row_elements
        ends.append(position)
    return [view[start:stop] for start, stop in pairwise(ends)]


def join(signature: Signature, pieces: Sequence[Request]) -> Outputs:
    """The outputs of a split request's pieces, in order, as one.

    Ragged variable axes are padded with zeros (BYTES: empty). Raises `ValueError` where the pieces differ in rank.
    """
    arrays: list[Array] = []
    for index in range(len(signature.outputs)):
        columns = []
        for piece in pieces:
            assert piece.outputs is not None
            columns.append(piece.outputs.arrays[index][piece.row_start : piece.row_start + piece.rows])
        arrays.append(stack_rows(columns))
    rows = sum(piece.rows for piece in pieces)
    return Outputs([s.name for s in signature.outputs], [s.datatype for s in signature.outputs], arrays, rows)
