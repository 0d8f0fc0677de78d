"""From a finished `Request` to the body of its answer: protocol v2 as JSON or JSON and binary, or the one-row form.

Numbers leave as `core/json_numbers.py` writes them. BYTES leave as JSON strings; what is not UTF-8 can only leave in
binary form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from forebay.api.classification import classify
from forebay.api.elements import show
from forebay.api.parameters import SHORTHAND, ReplyForm
from forebay.core.errors import RequestError
from forebay.core.json_numbers import write_numbers
from forebay.core.request import Request, output_array, output_buffer, output_shape
from forebay.core.tensors import Array, element_count, pack_bytes
from forebay.models.signature import Signature

HeaderPairs = Sequence[tuple[bytes, bytes]]

JSON_HEADERS: HeaderPairs = ((b"content-type", b"application/json"),)
"""The same object for every JSON answer, so that a caller may compare by identity."""

_REMEMBERED_SHAPES = 256
_dumps: Callable[[Any], bytes] = msgspec.json.Encoder().encode


class AnswerEncoder:
    """Encodes the answers of one model; made once."""

    def __init__(self, name: str, version: str, signature: Signature, labels: Sequence[str] = ()) -> None:
        self._signature = signature
        self._labels = labels
        self._batched = signature.batched
        self._single = len(signature.outputs) == 1
        self._model = b'"model_name":%b,"model_version":%b' % (_dumps(name), _dumps(version))
        self._tensors = [
            b'{"name":%b,"datatype":"%b","shape":' % (_dumps(spec.name), spec.datatype.encode())
            for spec in signature.outputs
        ]
        self._text = [spec.datatype == "BYTES" for spec in signature.outputs]
        # Everything before the values of a one-output answer, by its shape. Bounded: shapes may come from clients.
        self._heads: dict[tuple[int, ...], bytes] = {}
        self._number_rows = signature.batched and all(
            spec.datatype not in ("BYTES", "BOOL") and not spec.variable and 0 not in spec.row_shape
            for spec in signature.outputs
        )
        # What stands before, between and behind the values of one row.
        starts = [
            b'%b%b,"data":[' % (tensor, _dumps((1, *spec.row_shape)))
            for tensor, spec in zip(self._tensors, signature.outputs, strict=True)
        ]
        self._row_head = b'{%b,"outputs":[%b' % (self._model, b"".join(starts[:1]))
        self._between = [b"]}," + start for start in starts[1:]]
        # The same for the shorthand, where a row is one flat list.
        flat = self._number_rows and self._single and len(signature.outputs[0].row_shape) == 1
        self._short_head = b'{%b,"output":{%b:[' % (self._model, _dumps(signature.outputs[0].name)) if flat else b""

    def plain(self, request: Request) -> bytes | None:
        """The JSON of the most usual answer: one row, outputs of finite numbers, nothing asked for. Else None."""
        outputs = request.outputs
        if outputs is None or not self._number_rows or request.rows != 1:
            return None
        head, tail = self._row_head, b"]}]}"
        if request.wire is not None:
            if request.wire is not SHORTHAND or not self._short_head:
                return None
            head, tail = self._short_head, b"]}}"
        if request.id or request.explain or request.requested is not None:
            return None
        texts = outputs.texts
        if texts is False:
            texts = outputs.row_texts(self._between)
        if not isinstance(texts, list):
            return None
        return b"%b%b%b" % (head, texts[request.row_start], tail)

    def encode(self, request: Request) -> tuple[HeaderPairs, bytes]:
        """(headers without the length, body) of a request whose `outputs` are set.

        Raises `RequestError` where JSON cannot carry an output (BYTES that are not UTF-8).
        """
        outputs = request.outputs
        assert outputs is not None
        form = request.wire
        if self._single and form is None and not request.id and not request.explain and not self._text[0]:
            shape = outputs.arrays[0].shape
            key = (request.rows, *shape[1:]) if self._batched else shape
            head = self._heads.get(key) or self._remember(key)
            return JSON_HEADERS, head + self._values(request, 0) + b"}]}"
        if form is None:
            return JSON_HEADERS, self._document(request, ReplyForm(), [])
        if form.shorthand:
            return JSON_HEADERS, self._one_row(request)
        pieces: list[bytes] = []
        document = self._document(request, form, pieces)
        if not any(form.binary):
            return JSON_HEADERS, document
        headers = (
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(document)),
        )
        return headers, b"".join((document, *pieces))

    def _remember(self, key: tuple[int, ...]) -> bytes:
        head = b'{%b,"outputs":[%b%b,"data":' % (self._model, self._tensors[0], _dumps(key))
        if len(self._heads) < _REMEMBERED_SHAPES:
            self._heads[key] = head
        return head

    def _document(self, request: Request, form: ReplyForm, pieces: list[bytes]) -> bytes:
        """The JSON of the answer; the buffers of binary outputs are appended to `pieces`."""
        head = b'{"id":%b,%b' % (_dumps(request.id), self._model) if request.id else b"{" + self._model
        if request.explain:
            head += b',"parameters":' + _dumps(explanation(request))
        tensors: list[bytes] = []
        for position, index in enumerate(self._requested(request)):
            classes = None
            if form.classes and form.classes[position]:
                start, classes = self._classified(request, index, form.classes[position])
            else:
                start = self._tensors[index] + _dumps(output_shape(request, index, self._batched))
            if form.binary and form.binary[position]:
                piece = output_buffer(request, index, self._batched) if classes is None else pack_bytes(classes)
                pieces.append(piece)
                tensors.append(b'%b,"parameters":{"binary_data_size":%d}}' % (start, len(piece)))
            else:
                data = self._values(request, index) if classes is None else _dumps(classes)
                tensors.append(b'%b,"data":%b}' % (start, data))
        return b'%b,"outputs":[%b]}' % (head, b",".join(tensors))

    def _classified(self, request: Request, index: int, asked: int) -> tuple[bytes, list[str]]:
        """One output as its `asked` highest classes: the JSON up to the data, and the elements."""
        array = output_array(request, index, self._batched)
        rows = array.shape[0] if self._batched else 1
        width = element_count(array.shape[1:] if self._batched else array.shape)
        count = min(asked, width)
        name = _dumps(self._signature.outputs[index].name)
        shape = _dumps([rows, count] if self._batched else [count])
        elements = classify(array.reshape(rows, width), count, self._labels)
        return b'{"name":%b,"datatype":"BYTES","shape":%b' % (name, shape), elements

    def _one_row(self, request: Request) -> bytes:
        """The answer to the shorthand: each output nested as its row's shape."""
        head = b'{"id":%b,%b' % (_dumps(request.id), self._model) if request.id else b"{" + self._model
        if request.explain:
            head += b',"parameters":' + _dumps(explanation(request))
        members: list[bytes] = []
        for index in self._requested(request):
            array = output_array(request, index, self._batched)
            if self._batched:
                array = array.reshape(array.shape[1:])
            if self._text[index]:
                value = _dumps(nest(self._readable(array, index), array.shape))
            else:
                value = write_numbers(array)
            members.append(b"%b:%b" % (_dumps(self._signature.outputs[index].name), value))
        return b'%b,"output":{%b}}' % (head, b",".join(members))

    def _requested(self, request: Request) -> Sequence[int]:
        return range(len(self._tensors)) if request.requested is None else request.requested

    def _values(self, request: Request, index: int) -> bytes:
        """The elements of one output as a flat JSON list."""
        array = output_array(request, index, self._batched).reshape(-1)
        return _dumps(self._readable(array, index)) if self._text[index] else write_numbers(array)

    def _readable(self, array: Array, index: int) -> list[str]:
        """The elements of BYTES as text. Raises `RequestError` for what is not UTF-8."""
        texts: list[str] = []
        for position, value in enumerate(array.reshape(-1).tolist()):
            try:
                texts.append(value if isinstance(value, str) else bytes(value).decode())
            except UnicodeDecodeError:
                name = self._signature.outputs[index].name
                raise RequestError(
                    f"output {show(name)}: element {position} is not UTF-8 text, which JSON cannot carry; "
                    "ask for it with binary_data"
                ) from None
        return texts


def explanation(request: Request) -> dict[str, Any]:
    """What `"explain": true` adds to the answer: how it was batched. `padding_waste` is a share from 0 to 1."""
    return {
        "batch_rows": request.batch_rows,
        "queue_ms": round(request.queue_s * 1e3, 3),
        "dispatch_reason": request.dispatch_reason,
        "padding_waste": round(request.padding_waste, 4),
    }


def nest(values: list[Any], shape: Sequence[int]) -> Any:
    """A flat list nested as `shape`; for a scalar its value."""
    if not shape:
        return values[0]
    if not values:
        return np.empty(shape).tolist()
    for axis in reversed(shape[1:]):
        values = [values[start : start + axis] for start in range(0, len(values), axis)]
    return values
