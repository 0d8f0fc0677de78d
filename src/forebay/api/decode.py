"""From a request body to a `Request`.

The hot way lets msgspec decode and check the body straight into structs made for the model's signature: names,
datatypes, fixed axes and number ranges are checked in C, and FP32 and FP64 elements stay the list that came out.
Whatever that does not take goes to `general.py`, which accepts everything legal and otherwise says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from itertools import chain
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from forebay.api.binary import Body, TensorReader, Unchecked, check_bytes, check_tensor, split_body
from forebay.api.chunked import ChunkedDecoder
from forebay.api.elements import FLOAT_LIMITS, INTEGER_RANGES, MAX_AXIS, check_empty, show
from forebay.api.general import read_body
from forebay.api.parameters import NO_OPTIONS, SHORTHAND, ReplyForm, read_parameters, read_requested, reply_form
from forebay.core.errors import RequestError
from forebay.core.request import Payload, Request
from forebay.core.tensors import NUMPY_TYPES, element_count, pack_bytes
from forebay.models.signature import Signature, TensorSpec

OnDone = Callable[[Request], None]
Axis = Annotated[int, Meta(ge=0, le=MAX_AXIS)]
Scalars = dict[str, str | int | float | bool]

_OTHER_MEMBERS: Final[list[Any]] = [
    ("id", str, ""),
    ("parameters", Scalars | UnsetType, UNSET),
    ("outputs", list[Any] | UnsetType, UNSET),
]
_CLOSED: Final[dict[str, Any]] = {"forbid_unknown_fields": True, "gc": False}
_FAILED = (msgspec.DecodeError, ValueError, RecursionError)
"""What a typed decode raises: the general way finds out why."""


def _element_type(datatype: str) -> Any:
    """The Python type of one JSON element, with the datatype's range where msgspec can hold it."""
    if datatype == "BYTES":
        return str
    if datatype == "BOOL":
        return bool
    if datatype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[datatype]
        return int if datatype == "UINT64" else Annotated[int, Meta(ge=low, le=high)]
    limit = FLOAT_LIMITS.get(datatype)
    return float if limit is None else Annotated[float, Meta(gt=-limit, lt=limit)]


def _data_type(spec: TensorSpec, levels: int) -> Any:
    element: Any = _element_type(spec.datatype)
    for _ in range(max(1, levels)):
        element = list[element]
    return element


def _body_type(signature: Signature, form: Literal["flat", "nested", "binary"]) -> Any:
    """The struct of a plain body: inputs in the order of the signature, all with `data` of one form, or all binary."""
    tensors: list[Any] = []
    for spec in signature.inputs:
        axes = tuple(Axis if axis == -1 else Literal[axis] for axis in signature.wire_shape(spec))
        shape: Any = tuple[axes] if axes else tuple[()]  # type: ignore[valid-type]
        fields: list[Any] = [("name", Literal[spec.name]), ("datatype", Literal[spec.datatype]), ("shape", shape)]
        if form == "binary":
            fields.append(("parameters", _BinaryParameters))
        else:
            fields.append(("data", _data_type(spec, len(axes) if form == "nested" else 1)))
        tensors.append(msgspec.defstruct("Tensor", fields, **_CLOSED))
    inputs: Any = tuple[tuple(tensors)]  # type: ignore[misc]
    return msgspec.defstruct("Body", [("inputs", inputs), *_OTHER_MEMBERS], **_CLOSED)


def _row_body_type(spec: TensorSpec) -> Any:
    """The struct of the one-row shorthand for a model with this one input, whose rows are flat lists."""
    row = msgspec.defstruct("Row", [("value", _data_type(spec, 1))], rename={"value": spec.name}, **_CLOSED)
    return msgspec.defstruct("RowBody", [("input", row), *_OTHER_MEMBERS], **_CLOSED)


class _BinaryParameters(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    binary_data_size: Annotated[int, Meta(ge=0, le=1 << 62)]


class BodyDecoder:
    """Decodes the bodies of one model; made once. Every method raises `RequestError` and nothing else."""

    def __init__(self, signature: Signature, *, default_timeout_s: float = 30.0, max_json_depth: int = 64) -> None:
        self._signature = signature
        self._default_timeout_s = default_timeout_s
        self._max_json_depth = max_json_depth
        self._decode_json: Callable[[Body], Any] = msgspec.json.Decoder(_body_type(signature, "flat")).decode
        self._decode_nested: Callable[[Body], Any] = msgspec.json.Decoder(_body_type(signature, "nested")).decode
        self._decode_head: Callable[[Body], Any] = msgspec.json.Decoder(_body_type(signature, "binary")).decode
        self._chunked = ChunkedDecoder(signature, self._decode_json, _element_type)
        self._output_specs = {spec.name: (at, spec.datatype) for at, spec in enumerate(signature.outputs)}
        self._all_binary = ReplyForm(binary=(True,) * len(signature.outputs))
        self._item_bytes = [NUMPY_TYPES[spec.datatype].itemsize for spec in signature.inputs]
        # One FP32 or FP64 input of fixed row shape is decoded without any loop; other signatures have width -1.
        only = signature.inputs[0] if len(signature.inputs) == 1 else None
        plain = only is not None and signature.batched and only.datatype in ("FP32", "FP64")
        plain = plain and only is not None and min(only.row_shape, default=1) > 0
        self._width = math.prod(only.row_shape) if plain and only is not None else -1
        self._width_bytes = self._width * self._item_bytes[0] if self._item_bytes else 0
        self._row_shapes = tuple(spec.row_shape for spec in signature.inputs)
        # The shorthand, where such a row is a flat list.
        flat = plain and only is not None and len(only.row_shape) == 1
        self._decode_row = msgspec.json.Decoder(_row_body_type(only)).decode if flat and only is not None else None

    def decode(self, body: Body, arrived: float, on_done: OnDone, header_length: int | None = None) -> Request:
        """A body as a request. `arrived`: monotonic seconds, from which its timeout counts.

        `header_length`: the `Inference-Header-Content-Length` header in bytes, where there is one. 0 of it is Triton's
        raw binary request: the body is the only input's one row.
        """
        if header_length is not None:
            return self._decode_binary(body, arrived, on_done, header_length)
        try:
            document = self._decode_json(body)
        except _FAILED:
            row = self._row(body)
            if row is not None:
                return self._shorthand(row, arrived, on_done)
            document = self._flattened(body)
            if document is None:
                return self._decode_general(body, arrived, on_done, None)
        if self._width >= 0:
            (tensor,) = document.inputs
            data, rows = tensor.data, tensor.shape[0]
            if len(data) == rows * self._width:
                request = Request(
                    [data],
                    self._row_shapes,
                    rows,
                    nbytes=rows * self._width_bytes,
                    deadline=arrived + self._default_timeout_s,
                    arrived=arrived,
                    on_done=on_done,
                )
                request.id = document.id
                if document.parameters is not UNSET or document.outputs is not UNSET:
                    self._apply(request, document.parameters, document.outputs)
                return request
        payloads = self._pack(document)
        if payloads is None:
            return self._decode_general(body, arrived, on_done, None)
        return self._finish(payloads, document, arrived, on_done)

    def decode_in_steps(
        self, body: bytes | bytearray, arrived: float, on_done: OnDone
    ) -> Generator[None, None, Request]:
        """Like `decode` of a large JSON body, in short steps: other work may be done at each yield."""
        found = yield from self._chunked.steps(body)
        if found is None:
            return self.decode(body, arrived, on_done)
        document, payloads = found
        return self._finish(payloads, document, arrived, on_done)

    def decode_image(self, body: Body, arrived: float, on_done: OnDone) -> Request:
        """A raw `image/*` body: one BYTES row of a model with a single BYTES input, answered in the one-row form."""
        signature = self._signature
        spec = signature.inputs[0] if len(signature.inputs) == 1 else None
        if spec is None or spec.datatype != "BYTES" or any(axis not in (1, -1) for axis in spec.row_shape):
            raise RequestError("a raw image body needs a model with exactly one BYTES input of one element a row")
        shape = (1,) * len(signature.wire_shape(spec))
        payload: Payload = pack_bytes([bytes(body)])
        return self._build([payload], [shape], "", None, SHORTHAND, arrived, on_done)

    def _row(self, body: Body) -> Any:
        """The typed body of the usual shorthand; else None."""
        if self._decode_row is None:
            return None
        try:
            document = self._decode_row(body)
        except _FAILED:
            return None
        return document if len(document.input.value) == self._width else None

    def _shorthand(self, document: Any, arrived: float, on_done: OnDone) -> Request:
        request = Request(
            [document.input.value],
            self._row_shapes,
            1,
            nbytes=self._width_bytes,
            deadline=arrived + self._default_timeout_s,
            arrived=arrived,
            on_done=on_done,
        )
        request.id = document.id
        if document.parameters is not UNSET or document.outputs is not UNSET:
            self._apply(request, document.parameters, document.outputs)
        return self._in_shorthand(request)

    def _in_shorthand(self, request: Request) -> Request:
        if request.wire is not None:
            raise RequestError(
                "the one-row shorthand has no binary data and no classification; ask for them with inputs"
            )
        request.wire = SHORTHAND
        return request

    def _flattened(self, body: Body) -> Any:
        """The typed body where all `data` nests as its shape says, flattened; else None."""
        try:
            document = self._decode_nested(body)
        except _FAILED:
            return None
        for tensor in document.inputs:
            data, shape = tensor.data, tensor.shape
            if shape and len(data) != shape[0]:
                return None
            for axis in shape[1:]:
                if any(len(node) != axis for node in data):
                    return None
                data = list(chain.from_iterable(data))
            tensor.data = data
        return document

    def _pack(self, document: Any) -> list[Payload] | None:
        """The payloads of a typed body, or None where a length, a row count or a value does not fit."""
        payloads: list[Payload] = []
        rows = document.inputs[0].shape[0] if self._signature.batched and document.inputs else 1
        for spec, tensor in zip(self._signature.inputs, document.inputs, strict=True):
            data, shape = tensor.data, tensor.shape
            if len(data) != element_count(shape) or (self._signature.batched and shape[0] != rows) or 0 in shape:
                return None
            if spec.datatype in ("FP32", "FP64"):
                payloads.append(data)
            elif spec.datatype == "BYTES":
                payloads.append(pack_bytes(data))
            else:
                try:
                    payloads.append(np.array(data, dtype=NUMPY_TYPES[spec.datatype]).tobytes())
                except OverflowError:  # UINT64 only: its range is wider than msgspec can hold
                    return None
        return payloads

    def decode_binary_in_steps(
        self, body: Body, arrived: float, on_done: OnDone, header_length: int
    ) -> Generator[None, None, Request]:
        """Like `decode` of a body with binary tensors; the elements of BYTES are walked in short steps."""
        unchecked: Unchecked = []
        request = self._decode_binary(body, arrived, on_done, header_length, unchecked)
        for piece, count, name in unchecked:
            yield from check_bytes(piece, count, name)
        return request

    def _decode_binary(
        self, body: Body, arrived: float, on_done: OnDone, header_length: int, unchecked: Unchecked | None = None
    ) -> Request:
        if header_length == 0:
            return self._decode_raw(body, arrived, on_done)
        head, tail = split_body(body, header_length)
        try:
            document = self._decode_head(head)
        except _FAILED:
            return self._decode_general(body, arrived, on_done, header_length, unchecked)
        reader = TensorReader(tail, unchecked)
        payloads: list[Payload] = []
        rows = document.inputs[0].shape[0] if self._signature.batched and document.inputs else 1
        for spec, tensor in zip(self._signature.inputs, document.inputs, strict=True):
            if self._signature.batched and tensor.shape[0] != rows:
                return self._decode_general(body, arrived, on_done, header_length, unchecked)
            check_empty(tensor.shape, spec.name)
            payloads.append(reader.take(tensor.parameters.binary_data_size, spec.datatype, tensor.shape, spec.name))
        reader.finish()
        return self._finish(payloads, document, arrived, on_done)

    def _decode_raw(self, body: Body, arrived: float, on_done: OnDone) -> Request:
        """Triton's raw binary request: one input, one row, its only variable axis found from the size of the body.

        Every output is answered in binary form.
        """
        signature = self._signature
        if len(signature.inputs) != 1:
            raise RequestError(
                f"a raw binary request (Inference-Header-Content-Length: 0) needs a model with one input, "
                f"this one has {len(signature.inputs)}"
            )
        spec = signature.inputs[0]
        # A raw BYTES row is the element itself, without a length before it.
        view = memoryview(pack_bytes([bytes(body)]) if spec.datatype == "BYTES" else body)
        shape = _raw_shape(spec, len(view))
        if signature.batched:
            shape = (1, *shape)
        check_tensor(view, spec.datatype, shape, spec.name)
        check_empty(shape, spec.name)
        return self._build([view], [shape], "", None, self._all_binary, arrived, on_done)

    def _decode_general(
        self,
        body: Body,
        arrived: float,
        on_done: OnDone,
        header_length: int | None,
        unchecked: Unchecked | None = None,
    ) -> Request:
        read = read_body(body, header_length, self._signature, self._max_json_depth, unchecked)
        request = self._build(read.payloads, read.shapes, read.id, None, None, arrived, on_done)
        self._apply(request, read.parameters, read.outputs)
        return self._in_shorthand(request) if read.shorthand else request

    def _finish(self, payloads: list[Payload], document: Any, arrived: float, on_done: OnDone) -> Request:
        shapes = [tensor.shape for tensor in document.inputs]
        request = self._build(payloads, shapes, document.id, None, None, arrived, on_done)
        if document.parameters is not UNSET or document.outputs is not UNSET:
            self._apply(request, document.parameters, document.outputs)
        return request

    def _build(
        self,
        payloads: list[Payload],
        shapes: list[tuple[int, ...]],
        identity: str,
        requested: tuple[int, ...] | None,
        form: ReplyForm | None,
        arrived: float,
        on_done: OnDone,
    ) -> Request:
        batched = self._signature.batched
        nbytes = 0
        for payload, item_bytes in zip(payloads, self._item_bytes, strict=True):
            nbytes += len(payload) * item_bytes if type(payload) is list else len(payload)
        return Request(
            payloads,
            tuple([shape[1:] for shape in shapes]) if batched else tuple(shapes),
            shapes[0][0] if batched and shapes else 1,
            nbytes=nbytes,
            deadline=arrived + self._default_timeout_s,
            arrived=arrived,
            on_done=on_done,
            id=identity,
            requested=requested,
            wire=form,
        )

    def _apply(self, request: Request, parameters: Any, outputs: Any) -> None:
        """Writes what `parameters` and `outputs` ask for into the request."""
        options = read_parameters(parameters) if parameters else NO_OPTIONS
        request.priority = options.priority
        request.explain = options.explain
        request.parameters = options.rest
        if options.timeout_s is not None:
            request.deadline = request.arrived + options.timeout_s
        if outputs is not UNSET and outputs is not None:
            asked = read_requested(outputs, self._output_specs)
            if asked:
                request.requested, request.wire = reply_form(asked, options.binary_data_output)
                return
        if options.binary_data_output:
            request.wire = self._all_binary


def _raw_shape(spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    variable = spec.row_shape.count(-1)
    if spec.datatype == "BYTES":
        if any(axis not in (1, -1) for axis in spec.row_shape):
            raise RequestError(f"input {show(spec.name)}: a raw binary request takes one BYTES element a row")
        return (1,) * len(spec.row_shape)
    if variable > 1:
        raise RequestError(f"input {show(spec.name)}: a raw binary request allows at most one variable axis")
    fixed = math.prod(axis for axis in spec.row_shape if axis != -1) * NUMPY_TYPES[spec.datatype].itemsize
    length = size_bytes // fixed if fixed else 0
    return tuple(length if axis == -1 else axis for axis in spec.row_shape)
