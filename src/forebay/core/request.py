"""One client call on its way through the engine, and the outputs of the batch that it ran in."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec
import numpy as np

from forebay.core.caching import CacheAsk
from forebay.core.errors import ForebayError
from forebay.core.json_numbers import write_rows
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, element_count, pack_bytes, unpack_bytes

Payload = list[float] | bytes | bytearray | memoryview
"""One input's elements, row-major: Python floats straight from JSON (FP32, FP64), or the protocol's binary form."""


class Outputs:
    """The outputs of one batch, split to its requests by row."""

    __slots__ = ("arrays", "datatypes", "items", "names", "rows", "texts")

    def __init__(self, names: Sequence[str], datatypes: Sequence[str], arrays: Sequence[Array], rows: int) -> None:
        """`arrays[i]` has shape [rows, ...] (or any shape where the model does not batch: then `rows` is 1)."""
        self.names = names
        self.datatypes = datatypes
        self.arrays = arrays
        self.rows = rows
        self.items: Sequence[Request] = ()  # the requests of the batch in order, while they are answered one by one
        self.texts: list[bytes] | bool | None = False  # what `row_texts` made; False: not asked for yet

    def row_texts(self, between: Sequence[bytes] = ()) -> list[bytes] | None:
        """The values of the outputs, row by row, as JSON without brackets: one encoding for the whole batch.

        `between`: what stands between each output and the next. None where there is no number in a row, or one that
        JSON cannot carry.
        """
        texts = write_rows(self.arrays[0])
        for separator, array in zip(between, self.arrays[1:], strict=False):
            column = write_rows(array)
            if texts is None or column is None:
                texts = None
                break
            texts = list(map(separator.join, zip(texts, column, strict=True)))
        self.texts = texts
        return texts


class Listener:
    """Who hears a request's answer while it is being made, row by row, before `on_done` ends it.

    `on_piece(row, outputs)`: a piece of one row, counted from 0 in the request; `outputs` has one row, and may leave
    outputs out. `on_progress(row, fraction)`: how far a row is, 0 to 1. Both are called on the event loop.
    """

    __slots__ = ("_first_row", "begun", "on_piece", "on_progress")

    def __init__(
        self,
        on_piece: Callable[[int, Outputs], None],
        on_progress: Callable[[int, float], None],
        first_row: int = 0,
    ) -> None:
        self.on_piece = on_piece
        self.on_progress = on_progress
        self._first_row = first_row
        self.begun = False
        """A piece has been given and cannot be taken back: the request is not run again."""

    def part(self, row: int) -> Listener:
        """For the piece of a split request that begins at this row."""
        return Listener(self.on_piece, self.on_progress, self._first_row + row)

    def piece(self, row: int, outputs: Outputs) -> None:
        """Hand on a piece."""
        self.begun = True
        self.on_piece(self._first_row + row, outputs)

    def progress(self, row: int, fraction: float) -> None:
        """Hand on how far a row is."""
        self.on_progress(self._first_row + row, fraction)


class Background(msgspec.Struct, eq=False, weakref=False):
    """What holds of a request whose caller does not wait: a job. It stands behind all that somebody waits for, counts
    against no bound of the queue and is refused by no forecast.

    `timeout_s` counts from when its batch begins (`deadline` is infinite until then). `alone`: it shares a batch with
    nobody, since it may have ended a process before. The engine fills in the rest, in monotonic seconds: `began`
    (0: it has not, or is to run again) and `compute_s`.
    """

    timeout_s: float = math.inf
    alone: bool = False
    began: float = 0.0
    compute_s: float = 0.0


class Request(msgspec.Struct, eq=False, weakref=False):
    """One inference request. The engine fills in `outputs` or `error`, then calls `on_done` exactly once.

    `inputs` are payloads in the order of the signature; `shapes` their row shapes (without the batch axis; where the
    model does not batch, the whole shape). `deadline` and `arrived` are monotonic seconds. `length` is the variable
    axis that cost depends on (0: none). `lane` says which requests may share a batch. `behind_s` belongs to the engine,
    `wire` to the API.
    A struct, since one is made for each call and a struct is made four times as fast as an object.
    """

    inputs: list[Payload]
    shapes: tuple[tuple[int, ...], ...]
    rows: int
    nbytes: int
    deadline: float
    arrived: float
    on_done: Callable[[Request], None]
    id: str = ""
    priority: int = 0
    behind_s: float = 0.0
    length: int = 0
    lane: Hashable = None
    parameters: dict[str, Any] | None = None
    requested: tuple[int, ...] | None = None
    """Indices of the wanted outputs; None: all."""
    explain: bool = False
    wire: Any = None
    order: Any = None
    """Belongs to the batcher."""
    pieces: Any = None
    """Belongs to the engine: the pieces of a split request, or in a piece the request that it belongs to."""
    listener: Listener | None = None
    """Who wants pieces of the answer, where the model streams."""
    background: Background | None = None
    """Set for a job; None: somebody waits for the answer."""
    cache: CacheAsk | None = None
    """What is asked of the cache; None: it is passed by."""
    cached: Any = None
    """Belongs to the cache until the request is answered, then says what it did (`CacheNote`); None: nothing."""
    tenant: str = ""
    """The name of the API key that it came with; empty: none."""
    ran_on: str = ""
    """The digest of the files that answered, where that may be another than the engine's."""
    answered_by: str = ""
    """Who of a cascade (student, teacher, both), or which variant; empty: there are none."""
    runs_at: Any = None
    """Belongs to what stands in front of several engines: the one that has it."""
    outputs: Outputs | None = None
    row_start: int = 0
    error: ForebayError | None = None
    batch_rows: int = 0
    queue_s: float = 0.0
    dispatch_reason: str = ""
    padding_waste: float = 0.0


def output_shape(request: Request, index: int, batched: bool) -> list[int]:
    """The full shape of one output as this request's caller sees it."""
    assert request.outputs is not None
    shape = request.outputs.arrays[index].shape
    return [request.rows, *shape[1:]] if batched else list(shape)


def output_array(request: Request, index: int, batched: bool) -> Array:
    """One output of this request as an array."""
    assert request.outputs is not None
    array = request.outputs.arrays[index]
    return array[request.row_start : request.row_start + request.rows] if batched else array


def output_buffer(request: Request, index: int, batched: bool) -> bytes:
    """One output of this request in the protocol's binary form."""
    assert request.outputs is not None
    array = output_array(request, index, batched)
    if request.outputs.datatypes[index] == "BYTES":
        return pack_bytes(array.reshape(-1).tolist())
    return array.tobytes()


def payload_array(payload: Payload, datatype: str, shape: Sequence[int]) -> Array:
    """A payload as an array of this full shape."""
    if isinstance(payload, list):
        return np.array(payload, dtype=NUMPY_TYPES[datatype]).reshape(shape)
    if datatype == "BYTES":
        return bytes_array(unpack_bytes(payload, element_count(shape)), shape)
    return np.frombuffer(payload, dtype=NUMPY_TYPES[datatype]).reshape(shape)
