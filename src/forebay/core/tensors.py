"""Datatypes and tensor payloads of the Open Inference Protocol v2.

Source: https://github.com/kserve/open-inference-protocol (tensor data types) and Triton's binary tensor data extension
(BYTES elements are a 4-byte little-endian length, then the bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.core.errors import RequestError

Array = npt.NDArray[Any]

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""Datatype name to numpy type; BYTES elements are Python `bytes` in an object array."""

DATATYPES: dict[str, str] = {str(v): k for k, v in NUMPY_TYPES.items()}
_LENGTH = struct.Struct("<I")


def datatype_of(array: Array) -> str:
    """The protocol's datatype of a numpy array. Raises `ValueError` for one that has none."""
    name = DATATYPES.get(str(array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype))
    if name is None:
        if array.dtype.kind in "SU":
            return "BYTES"
        raise ValueError(
            f"numpy type {array.dtype} has no datatype in the protocol; use one of {', '.join(NUMPY_TYPES)}"
        )
    return name


def element_count(shape: Sequence[int]) -> int:
    """Elements of a tensor of this shape (1 for a scalar)."""
    count = 1
    for axis in shape:
        count *= axis
    return count


def pack_bytes(values: Iterable[bytes | str]) -> bytes:
    """BYTES elements as one buffer: each a 4-byte little-endian length, then the bytes. Text is UTF-8."""
    parts: list[bytes] = []
    for value in values:
        raw = value.encode() if isinstance(value, str) else value
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def unpack_bytes(buffer: bytes | bytearray | memoryview, count: int, name: str = "tensor") -> list[bytes]:
    """The `count` BYTES elements of a buffer. Raises `RequestError` where it does not hold exactly that many."""
    view = memoryview(buffer)
    values: list[bytes] = []
    position, end = 0, len(view)
    while position < end:
        if position + 4 > end:
            raise RequestError(f"input {name!r}: BYTES data ends inside a length prefix at byte {position}")
        (size,) = _LENGTH.unpack_from(view, position)
        position += 4
        if position + size > end:
            raise RequestError(
                f"input {name!r}: BYTES element of {size} bytes at byte {position} runs past the end, {end}"
            )
        values.append(bytes(view[position : position + size]))
        position += size
        if len(values) > count:
            break
    if len(values) != count:
        found = "more" if len(values) > count else len(values)
        raise RequestError(f"input {name!r}: its shape holds {count} BYTES elements, its data {found}")
    return values


def to_buffer(array: Array, datatype: str) -> bytes:
    """An array's elements in row-major order as the protocol's binary form."""
    if datatype == "BYTES":
        return pack_bytes(as_bytes(value) for value in array.reshape(-1).tolist())
    return np.ascontiguousarray(array, dtype=NUMPY_TYPES[datatype]).tobytes()


def from_buffer(
    buffer: bytes | bytearray | memoryview, datatype: str, shape: Sequence[int], name: str = "tensor"
) -> Array:
    """An array of this shape over (for BYTES: from) the binary form. Raises `RequestError` if the size does not fit."""
    count = element_count(shape)
    if datatype == "BYTES":
        return bytes_array(unpack_bytes(buffer, count, name), shape)
    dtype = NUMPY_TYPES[datatype]
    if len(buffer) != count * dtype.itemsize:
        raise RequestError(
            f"input {name!r}: {count} {datatype} elements are {count * dtype.itemsize} bytes, got {len(buffer)}"
        )
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)


def bytes_array(values: Sequence[bytes], shape: Sequence[int]) -> Array:
    """BYTES elements as an object array of this shape. Nothing is allocated for a shape that the values do not fill."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def stack_rows(blocks: Sequence[Array]) -> Array:
    """Arrays [rows, ...] one below the other; ragged axes are filled with zeros (BYTES: empty).

    Raises `ValueError` where they differ in rank.
    """
    shapes = {block.shape[1:] for block in blocks}
    if len(shapes) == 1:
        return np.concatenate(blocks)
    longest = tuple(max(axis) for axis in zip(*shapes, strict=True))
    padded = []
    for block in blocks:
        array = np.full((len(block), *longest), b"" if block.dtype == object else 0, block.dtype)
        array[(slice(None), *(slice(0, axis) for axis in block.shape[1:]))] = block
        padded.append(array)
    return np.concatenate(padded)


def as_bytes(value: Any) -> bytes:
    """One BYTES element: bytes as they are, text as UTF-8, anything else as its text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return str(value).encode()
