"""The frames between an engine and its instances: length-prefixed, msgpack header, raw tensor bytes. Never pickle.

A frame is HEAD (body bytes u32, kind u8, header bytes u32), then the msgpack header, then the payloads in order. A
payload with `offset >= 0` is not in the frame but in the shared arena (see `arena`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from forebay.models.artefact import Known
from forebay.models.read_files import ReadFiles
from forebay.models.signature import Signature
from forebay.models.source import LoadOptions, ModelSource

HEAD = struct.Struct("<IBI")
MAX_FRAME_BYTES = 1 << 31

LOAD, RUN, DECODE, CANCEL, SHOW = 1, 2, 3, 4, 5
READY, DONE, FAILED, LOAD_FAILED, DECODED = 11, 12, 13, 14, 15
PIECE, PROGRESS, ENDED, CLOSED = 16, 17, 18, 19
SHOWN = 20
STREAMED = frozenset((PIECE, PROGRESS, ENDED, CLOSED))
"""What comes of a batch of a model that streams, instead of DONE: pieces, progress, the ends of rows, its own end."""


class InputPart(msgspec.Struct, array_like=True):
    """One input of a batch: a row shape shared by all rows, or, to be padded, one row shape for each request."""

    shapes: list[Sequence[int]]
    nbytes: int
    offset: int


class RunHeader(msgspec.Struct, array_like=True):
    """RUN: a batch. `counts` are the rows of each request where shapes differ, else empty.

    `listened`: the rows whose callers want pieces, where the model streams.
    """

    batch_id: int
    rows: int
    counts: list[int]
    inputs: list[InputPart]
    listened: Sequence[int] = ()


class CancelHeader(msgspec.Struct, array_like=True):
    """CANCEL: nobody waits for these rows of a batch any more."""

    batch_id: int
    rows: list[int]


class OutputPart(msgspec.Struct, array_like=True):
    """One output of a batch, with its full shape."""

    shape: list[int]
    nbytes: int
    offset: int


class DoneHeader(msgspec.Struct, array_like=True):
    """DONE: the outputs of a batch in the order of the signature; `busy_s` is the instance's own time for it."""

    batch_id: int
    busy_s: float
    outputs: list[OutputPart]


class PieceHeader(msgspec.Struct, array_like=True):
    """PIECE: a piece of the answers of `rows`; ENDED: the whole answer of one row. Offsets are -1.

    `indices` are the outputs, by their place in the signature; their shapes are [len(rows), ...].
    """

    batch_id: int
    rows: list[int]
    indices: list[int]
    outputs: list[OutputPart]


class ProgressHeader(msgspec.Struct, array_like=True):
    """PROGRESS: how far `rows` are, 0 to 1. Without rows: a sign of life."""

    batch_id: int
    rows: list[int]
    fraction: float


class ClosedHeader(msgspec.Struct, array_like=True):
    """CLOSED: the batch is over. `complete`: every row has ended; else nobody waited any more and it was broken off."""

    batch_id: int
    busy_s: float
    complete: bool


class FailedHeader(msgspec.Struct, array_like=True):
    """FAILED: the batch raised. `code` is one of ExecutionError's."""

    batch_id: int
    busy_s: float
    code: str
    message: str


class LoadHeader(msgspec.Struct, array_like=True):
    """LOAD: the first frame. `measure_s` bounds the time spent on measuring cost by size; 0: only warm up. `known`:
    what the engine has found of the model's files."""

    source: ModelSource
    device: str
    threads: int
    max_batch_rows: int
    measure_s: float
    arena_slot_bytes: int
    inline_bytes: int
    options: LoadOptions = LoadOptions()
    known: Known | None = None


class ReadyHeader(msgspec.Struct, array_like=True):
    """READY: the model is loaded and warm. `costs` are measured (rows, length, seconds)."""

    platform: str
    signature: Signature
    settings: dict[str, Any]
    digest: str
    batchable: bool
    reason: str
    costs: list[tuple[int, int, float]]
    streams: bool = False
    note: str = ""
    """What else the log should say of the model."""
    pad_multiple: int = 1
    """To what the rows of a padded batch are filled up."""
    read: ReadFiles | None = None
    """What it reads besides its own files, where only the instance knows that. It is part of the digest."""


class ShowHeader(msgspec.Struct, array_like=True):
    """SHOW: give inputs to measure with: at most so many requests of one row, and bytes (one request always)."""

    most: int
    most_bytes: int


class ShownHeader(msgspec.Struct, array_like=True):
    """SHOWN: the inputs of some requests; the payloads follow request by request. `reason`: why there are none."""

    requests: list[list[InputPart]]
    reason: str = ""


class LoadFailedHeader(msgspec.Struct, array_like=True):
    """LOAD_FAILED: the process ends after it."""

    message: str


Header = RunHeader | DoneHeader | FailedHeader | LoadHeader | ReadyHeader | LoadFailedHeader

_encode = msgspec.msgpack.Encoder().encode


def pack(kind: int, header: Any, payloads: Sequence[bytes | bytearray | memoryview] = ()) -> bytes:
    """One frame. Raises `ValueError` above 2 GiB."""
    head = _encode(header)
    size = len(head) + sum(map(len, payloads))
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes is above the limit of {MAX_FRAME_BYTES}")
    return b"".join((HEAD.pack(size, kind, len(head)), head, *payloads))


class FrameReader:
    """Cuts a byte stream into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes, memoryview]]:
        """Complete frames so far as (kind, header bytes, payload bytes). The payload view stays valid and writable.

        Raises `ValueError` where the stream holds no frames; the connection is of no use then.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, bytes, memoryview]] = []
        position, end = 0, len(buffer)
        while end - position >= HEAD.size:
            size, kind, header_bytes = HEAD.unpack_from(buffer, position)
            if size > MAX_FRAME_BYTES or header_bytes > size:
                raise ValueError(f"not a frame: {size} bytes with a header of {header_bytes}")
            start = position + HEAD.size
            if end - start < size:
                break
            # A copy of its own for each frame: models may write to what they are given.
            body = memoryview(buffer[start : start + size])
            frames.append((kind, bytes(body[:header_bytes]), body[header_bytes:]))
            position = start + size
        if position:
            del buffer[:position]
        return frames
