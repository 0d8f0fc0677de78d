"""One client call on its way through the engine, and the outputs of the batch that it ran in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from forebay.core.errors import ForebayError
from forebay.core.tensors import NUMPY_TYPES, Array, element_count, pack_bytes, unpack_bytes

Payload = list[float] | bytes | bytearray | memoryview
"""One input's elements, row-major: Python floats straight from JSON (FP32 and FP64 only), or the protocol's binary form."""


class Outputs:
    """The outputs of one batch, split to its requests by row. Each list and buffer is made at most once a batch."""

    __slots__ = ("_flat", "_json", "arrays", "datatypes", "names", "rows")

    def __init__(self, names: Sequence[str], datatypes: Sequence[str], arrays: Sequence[Array], rows: int) -> None:
        """`arrays[i]` has shape [rows, ...] (or any shape where the model does not batch: then `rows` is 1)."""
        self.names = names
        self.datatypes = datatypes
        self.arrays = arrays
        self.rows = rows
        self._flat: list[list[Any] | None] = [None] * len(names)
        self._json: list[bool | None] = [None] * len(names)

    def flat(self, index: int) -> list[Any]:
        """All elements of output `index`, row-major, as Python values (BYTES: `bytes`)."""
        values = self._flat[index]
        if values is None:
            values = self._flat[index] = self.arrays[index].reshape(-1).tolist()
        return values

    def finite(self, index: int) -> bool:
        """Whether JSON can carry output `index` without NaN and infinity tokens."""
        known = self._json[index]
        if known is None:
            array = self.arrays[index]
            known = self._json[index] = array.dtype.kind != "f" or bool(np.isfinite(array).all())
        return known


class Request:
    """One inference request. The engine fills in `outputs` or `error`, then calls `on_done` exactly once.

    `inputs` are payloads in the order of the signature; `shapes` their row shapes (without the batch axis; where the
    model does not batch, the whole shape). `deadline` and `arrived` are monotonic seconds. `length` is the variable
    axis that cost depends on (0: none). `lane` says which requests may share a batch. `wire` belongs to the API.
    """

    __slots__ = (
        "arrived",
        "batch_rows",
        "deadline",
        "dispatch_reason",
        "error",
        "explain",
        "id",
        "inputs",
        "lane",
        "length",
        "nbytes",
        "on_done",
        "order",
        "outputs",
        "padding_waste",
        "parameters",
        "pieces",
        "priority",
        "queue_s",
        "requested",
        "row_start",
        "rows",
        "shapes",
        "wire",
    )

    def __init__(
        self,
        inputs: list[Payload],
        shapes: tuple[tuple[int, ...], ...],
        rows: int,
        *,
        nbytes: int,
        deadline: float,
        arrived: float,
        on_done: Callable[[Request], None],
        id: str = "",
        priority: int = 0,
        length: int = 0,
        lane: Hashable = None,
        parameters: dict[str, Any] | None = None,
        requested: tuple[int, ...] | None = None,
        explain: bool = False,
        wire: Any = None,
    ) -> None:
        self.inputs = inputs
        self.shapes = shapes
        self.rows = rows
        self.nbytes = nbytes
        self.deadline = deadline
        self.arrived = arrived
        self.on_done = on_done
        self.id = id
        self.priority = priority
        self.length = length
        self.lane = lane
        self.parameters = parameters
        self.requested = requested  # indices into the model's outputs; None: all
        self.explain = explain
        self.wire = wire
        self.order: Any = None
        self.pieces: Any = None
        self.outputs: Outputs | None = None
        self.row_start = 0
        self.error: ForebayError | None = None
        self.batch_rows = 0
        self.queue_s = 0.0
        self.dispatch_reason = ""
        self.padding_waste = 0.0


def output_shape(request: Request, index: int, batched: bool) -> list[int]:
    """The full shape of one output as this request's caller sees it."""
    assert request.outputs is not None
    shape = request.outputs.arrays[index].shape
    return [request.rows, *shape[1:]] if batched else list(shape)


def output_values(request: Request, index: int, batched: bool) -> list[Any]:
    """One output's elements for this request, row-major, as Python values."""
    assert request.outputs is not None
    flat = request.outputs.flat(index)
    if not batched or request.outputs.rows == request.rows:
        return flat
    width = len(flat) // request.outputs.rows
    return flat[request.row_start * width : (request.row_start + request.rows) * width]


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
        array = np.empty(element_count(shape), dtype=object)
        array[:] = unpack_bytes(payload, array.size)
        return array.reshape(shape)
    return np.frombuffer(payload, dtype=NUMPY_TYPES[datatype]).reshape(shape)
