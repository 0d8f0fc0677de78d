"""Large JSON bodies, decoded in short steps, so that the event loop can do other things between them.

A thread would not help: msgspec holds the interpreter lock for the whole of a body. So the numbers of each `data` list
are cut out of the body and decoded piece by piece; what is left is a small body with empty lists. Only numbers, flat or
nested as their shape, can be cut like this. Whatever does not fit is left to the ordinary decode, which also finds
every error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from forebay.api.binary import Body
from forebay.core.request import Payload
from forebay.core.tensors import NUMPY_TYPES, element_count
from forebay.models.signature import Signature

PIECE_BYTES = 32 << 10
"""JSON text decoded in one step: about 0.2 ms."""

_DATA = re.compile(rb'"data"\s*:\s*\[')
_END = re.compile(rb'\]\s*(?:\}|,\s*")')
"""A list of numbers, or of lists of them, ends where a bracket is followed by the next member or the object's end."""
_END_WINDOW_BYTES = 128
FAILED = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)


class _Lists:
    """How one input's `data` is cut and decoded: flat, or nested `rank` levels deep."""

    __slots__ = ("_comma", "_decode_flat", "_decode_nested", "_dtype")

    def __init__(self, element: Any, datatype: str, rank: int) -> None:
        self._dtype = NUMPY_TYPES[datatype]
        self._decode_flat: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[element]).decode
        nested: Any = element
        for _ in range(rank):
            nested = list[nested]
        self._decode_nested: Callable[[bytes], list[Any]] = msgspec.json.Decoder(nested).decode
        # Between two rows as many brackets close as a row has axes.
        self._comma = re.compile(rb"(?:\]\s*){%d}," % (rank - 1))

    def steps(
        self, body: bytes | bytearray, start: int, end: int, shape: Sequence[int]
    ) -> Generator[None, None, bytes | None]:
        """The numbers between `start` and `end` as the binary form of a tensor of `shape`; None where they are not."""
        nested = len(shape) > 1 and body[start : start + 64].lstrip()[:1] == b"["
        decode = self._decode_nested if nested else self._decode_flat
        pieces: list[bytes] = []
        while start < end:
            if nested:
                comma = self._comma.search(body, start + PIECE_BYTES, end)
                stop = end if comma is None else comma.end() - 1
            else:
                position = body.find(b",", start + PIECE_BYTES, end)
                stop = end if position < 0 else position
            try:
                values = decode(b"".join((b"[", body[start:stop], b"]")))
                # A piece without elements is a comma too many; a comma at the very end would leave none to see.
                if not values or stop == end - 1:
                    return None
                for axis in shape[1:] if nested else ():
                    if any(len(node) != axis for node in values):
                        return None
                    values = list(chain.from_iterable(values))
                pieces.append(np.array(values, dtype=self._dtype).tobytes())
            except FAILED:
                return None
            start = stop + 1
            yield
        payload = b"".join(pieces)
        return payload if payload and len(payload) == element_count(shape) * self._dtype.itemsize else None


class ChunkedDecoder:
    """Decodes the large bodies of one model; made once."""

    def __init__(
        self, signature: Signature, decode_json: Callable[[Body], Any], element_type: Callable[[str], Any]
    ) -> None:
        """`decode_json`: the model's typed decode of a whole body. `element_type`: a datatype's JSON element."""
        self._signature = signature
        self._decode_json = decode_json
        self._numbers = all(spec.datatype != "BYTES" for spec in signature.inputs)
        self._lists = [
            _Lists(element_type(spec.datatype), spec.datatype, max(1, len(signature.wire_shape(spec))))
            for spec in signature.inputs
        ]

    def steps(self, body: bytes | bytearray) -> Generator[None, None, tuple[Any, list[Payload]] | None]:
        """Yields between steps; returns the typed body (its `data` empty) and the payloads. None: decode it whole."""
        cut = self._cut(body) if self._numbers else None
        if cut is None:
            return None
        document, spans = cut
        if self._signature.batched and len({tensor.shape[0] for tensor in document.inputs}) != 1:
            return None
        payloads: list[Payload] = []
        for lists, tensor, (start, end) in zip(self._lists, document.inputs, spans, strict=True):
            payload = yield from lists.steps(body, start, end, tensor.shape)
            if payload is None:
                return None
            payloads.append(payload)
        return document, payloads

    def _cut(self, body: bytes | bytearray) -> tuple[Any, list[tuple[int, int]]] | None:
        """The typed body without its numbers, and where they stand; None where that is not one list an input."""
        spans: list[tuple[int, int]] = []
        rest: list[bytes | bytearray] = []
        position = 0
        while match := _DATA.search(body, position):
            # Numbers hold no quotes, so the list ends shortly before the next one, or the end of the body.
            quote = body.find(b'"', match.end())
            until = len(body) if quote < 0 else quote + 1
            end = _END.search(body, max(match.end(), until - _END_WINDOW_BYTES), until)
            if end is None or len(spans) == len(self._signature.inputs):
                return None
            spans.append((match.end(), end.start()))
            rest.append(body[position : match.end()])
            position = end.start()
        rest.append(body[position:])
        if len(spans) != len(self._signature.inputs):
            return None
        try:
            document = self._decode_json(b"".join(rest))
        except FAILED:
            return None
        # Every list that was cut out is the `data` of an input, in order, exactly if all of them are empty now.
        return None if any(tensor.data for tensor in document.inputs) else (document, spans)
