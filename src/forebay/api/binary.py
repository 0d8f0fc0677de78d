"""The binary tensor data extension, inwards: tensors that follow the JSON in the body, in its order.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from forebay.api.elements import show
from forebay.core.errors import RequestError
from forebay.core.tensors import NUMPY_TYPES, element_count

Body = bytes | bytearray | memoryview

Unchecked = list[tuple[memoryview, int, str]]
"""BYTES data, how many elements it must hold, and the input's name."""

_LENGTH = struct.Struct("<I")
_STEP_ELEMENTS = 2048
"""About half a millisecond of work."""


def parse_header_length(value: bytes | str | None) -> int | None:
    """The `Inference-Header-Content-Length` header as bytes of JSON. Raises `RequestError` unless decimal digits."""
    if value is None:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise RequestError(f"Inference-Header-Content-Length must be a number of bytes, got {show(text)}")
    return int(text)


def split_body(body: Body, header_length: int) -> tuple[memoryview, memoryview]:
    """(JSON, tensors) of a body, without copying. Raises `RequestError` where the JSON would run past its end."""
    view = memoryview(body)
    if header_length > len(view):
        raise RequestError(
            f"Inference-Header-Content-Length is {header_length}, but the whole body has {len(view)} bytes"
        )
    return view[:header_length], view[header_length:]


class TensorReader:
    """Hands out the binary tensors of one body in order. Payloads are views of the body: nothing is copied."""

    __slots__ = ("_position", "_unchecked", "_view")

    def __init__(self, view: memoryview, unchecked: Unchecked | None = None) -> None:
        """`unchecked`: where to note BYTES tensors, whose elements are then not looked at here."""
        self._view = view
        self._unchecked = unchecked
        self._position = 0

    def take(self, size_bytes: int, datatype: str, shape: Sequence[int], name: str) -> memoryview:
        """The next tensor. Raises `RequestError` where its size fits neither the body nor its shape and datatype."""
        end = self._position + size_bytes
        if end > len(self._view):
            left = len(self._view) - self._position
            raise RequestError(
                f"input {show(name)}: binary_data_size is {size_bytes}, but {left} bytes are left in the body"
            )
        piece = self._view[self._position : end]
        self._position = end
        if self._unchecked is not None and datatype == "BYTES":
            self._unchecked.append((piece, element_count(shape), name))
        else:
            check_tensor(piece, datatype, shape, name)
        return piece

    def finish(self) -> None:
        """Raises `RequestError` where bytes are left over."""
        left = len(self._view) - self._position
        if left:
            raise RequestError(f"the body has {left} bytes more than its JSON and the binary_data_size of its inputs")


def check_tensor(piece: memoryview, datatype: str, shape: Sequence[int], name: str) -> None:
    """Raises `RequestError` unless `piece` holds exactly a tensor of this datatype and shape."""
    count = element_count(shape)
    if datatype == "BYTES":
        for _ in check_bytes(piece, count, name):
            pass
        return
    expected = count * NUMPY_TYPES[datatype].itemsize
    if len(piece) != expected:
        raise RequestError(
            f"input {show(name)}: {datatype} of shape {list(shape)} takes {expected} bytes, "
            f"its binary data has {len(piece)}"
        )
    if datatype == "BOOL" and bytes(piece).translate(None, b"\x00\x01"):
        index, value = next((i, v) for i, v in enumerate(piece) if v > 1)
        raise RequestError(f"input {show(name)}: element {index} of BOOL binary data must be 0 or 1, got {value}")


def check_bytes(piece: memoryview, count: int, name: str) -> Iterator[None]:
    """Walks the length prefixes of BYTES data without taking copies; yields after every few thousand elements.

    Raises `RequestError` unless it holds exactly `count` elements.
    """
    position, end, found = 0, len(piece), 0
    while position < end and found <= count:
        if position + 4 > end:
            raise RequestError(f"input {show(name)}: BYTES data ends inside a length prefix at byte {position}")
        (size,) = _LENGTH.unpack_from(piece, position)
        if position + 4 + size > end:
            raise RequestError(
                f"input {show(name)}: BYTES element {found} of {size} bytes at byte {position} runs past the end, {end}"
            )
        position += 4 + size
        found += 1
        if not found % _STEP_ELEMENTS:
            yield
    if found != count:
        raise RequestError(
            f"input {show(name)}: its shape holds {count} BYTES elements, "
            f"its binary data {'more' if found > count else found}"
        )
