"""From an answer's bytes to a `Result`, or to the error that it stands for.

Servers of every make answer here, so everything is checked; what does not fit is an `InvalidAnswerError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from forebay.client.errors import InvalidAnswerError, error_of
from forebay.client.results import Result
from forebay.client.retries import parse_retry_after
from forebay.client.steps import Reply
from forebay.core.errors import ForebayError, RequestError
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, element_count, unpack_bytes

_HEADER_LENGTH = "inference-header-content-length"


def read_error(reply: Reply, now: datetime) -> tuple[ForebayError, float | None]:
    """(the error, seconds of Retry-After or None) of an answer other than 200. now: the time of day with its zone."""
    retry_after_s = parse_retry_after(reply.headers.get("retry-after"), now)
    try:
        document = parse_json(reply.body)
    except InvalidAnswerError:
        document = None
    text = bytes(reply.body[:2000]).decode(errors="replace") if document is None else ""
    return error_of(reply.status, document if isinstance(document, dict) else None, text, retry_after_s), retry_after_s


def read_document(reply: Reply) -> dict[str, Any]:
    """The JSON object of an answer of status 200."""
    document = parse_json(reply.body)
    if not isinstance(document, dict):
        raise InvalidAnswerError(f"the answer is not a JSON object but {type(document).__name__}")
    return document


def read_result(reply: Reply, attempts: int) -> Result:
    """The outputs of an inference answer of status 200, JSON and binary.

    Of one in the one-row form, in which some jobs were submitted, numpy chooses the types.
    """
    view = memoryview(reply.body)
    length = reply.headers.get(_HEADER_LENGTH)
    head, tail = view, view[:0]
    if length is not None:
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > len(view):
            raise InvalidAnswerError(f"the answer's {_HEADER_LENGTH} is {length!r}, its body has {len(view)} bytes")
        head, tail = view[: int(length)], view[int(length) :]
    document = parse_json(head)
    if not isinstance(document, dict):
        raise InvalidAnswerError("the answer has no list of outputs")
    return Result(
        _outputs(document, tail),
        model_name=str(document.get("model_name") or ""),
        model_version=str(document.get("model_version") or ""),
        id=str(document.get("id") or ""),
        parameters=dict(document.get("parameters") or {}),
        attempts=attempts,
    )


def _outputs(document: dict[str, Any], tail: memoryview) -> dict[str, Array]:
    entries, one_row = document.get("outputs"), document.get("output")
    if entries is None and isinstance(one_row, dict):
        return {name: _without_type(value, name) for name, value in one_row.items()}
    if not isinstance(entries, list):
        raise InvalidAnswerError("the answer has no list of outputs")
    outputs: dict[str, Array] = {}
    position = 0
    for entry in entries:
        name, datatype, shape = _described(entry)
        parameters = entry.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            outputs[name] = _from_json(entry.get("data"), name, datatype, shape)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - position:
            raise InvalidAnswerError(
                f"output {name!r}: binary_data_size is {size!r}, and {len(tail) - position} bytes are left"
            )
        outputs[name] = _from_binary(tail[position : position + size], name, datatype, shape)
        position += size
    return outputs


def parse_json(body: bytes | bytearray | memoryview) -> Any:
    """JSON, also with NaN and infinities as tokens. Raises `InvalidAnswerError`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        return json.loads(bytes(body))  # NaN and infinities as tokens
    except (ValueError, RecursionError):
        raise InvalidAnswerError("the answer is not JSON") from None


def _described(entry: Any) -> tuple[str, str, tuple[int, ...]]:
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    name, datatype, shape = fields.get("name"), fields.get("datatype"), fields.get("shape")
    if not isinstance(name, str):
        raise InvalidAnswerError("an output of the answer has no name")
    if datatype not in NUMPY_TYPES:
        raise InvalidAnswerError(f"output {name!r}: numpy has no type for datatype {datatype!r}")
    if not isinstance(shape, list) or any(type(axis) is not int or axis < 0 for axis in shape):
        raise InvalidAnswerError(f"output {name!r}: its shape is {shape!r}")
    return name, str(datatype), tuple(shape)


def _from_binary(piece: memoryview, name: str, datatype: str, shape: tuple[int, ...]) -> Array:
    count = element_count(shape)
    if datatype == "BYTES":
        try:
            return bytes_array(unpack_bytes(piece, count), shape)
        except RequestError:
            raise InvalidAnswerError(f"output {name!r}: its bytes do not hold {count} BYTES elements") from None
    dtype = NUMPY_TYPES[datatype]
    if len(piece) != count * dtype.itemsize:
        raise InvalidAnswerError(
            f"output {name!r}: {count} {datatype} elements are {count * dtype.itemsize} bytes, got {len(piece)}"
        )
    # A copy: aligned, writable, and it does not keep the whole answer alive.
    return np.frombuffer(piece, dtype=dtype).reshape(shape).copy()


def _from_json(data: Any, name: str, datatype: str, shape: tuple[int, ...]) -> Array:
    if not isinstance(data, list):
        raise InvalidAnswerError(f"output {name!r} has neither data nor a binary_data_size")
    try:
        if datatype == "BYTES":
            # str.encode refuses what is no text: bytes(3) would be three NULs.
            texts = np.array(data, dtype=object).reshape(-1).tolist()
            return bytes_array([str.encode(text) for text in texts], shape)
        return np.array(data, dtype=NUMPY_TYPES[datatype]).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise InvalidAnswerError(f"output {name!r}: its data is not {datatype} of shape {list(shape)}") from None


def _without_type(value: Any, name: str) -> Array:
    """An output that comes without datatype and shape."""
    try:
        loose = np.array(value)
        if loose.dtype.kind in "biuf":
            return loose
        array = np.array(value, dtype=object)
        return bytes_array([str.encode(text) for text in array.reshape(-1).tolist()], array.shape)
    except (ValueError, TypeError, OverflowError):
        raise InvalidAnswerError(f"output {name!r}: its data is neither numbers nor text") from None
