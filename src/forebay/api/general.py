"""The patient way from a body to tensors: accepts everything legal and otherwise says what is wrong.

`decode.py` comes here where its typed decode gave up: nested data, NaN tokens, inputs in another order, unknown
members, mixed JSON and binary tensors, the one-row shorthand, and every kind of error.
Of a JSON member that stands twice the last one counts, here as in the typed decode.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import msgspec

from forebay.api.binary import Body, TensorReader, Unchecked, split_body
from forebay.api.elements import check_empty, flatten, kind, nested_shape, payload_of, read_shape, show
from forebay.api.parameters import check_text
from forebay.core.errors import RequestError
from forebay.core.request import Payload
from forebay.core.tensors import NUMPY_TYPES
from forebay.models.signature import Signature, TensorSpec


class Read(NamedTuple):
    """What a body held: payloads and whole shapes in the order of the signature, and the other members as they came."""

    payloads: list[Payload]
    shapes: list[tuple[int, ...]]
    id: str
    parameters: dict[str, Any] | None
    outputs: Any
    shorthand: bool


def read_body(
    body: Body,
    header_length: int | None,
    signature: Signature,
    max_json_depth: int,
    unchecked: Unchecked | None = None,
) -> Read:
    """Decodes a body for `signature`; `header_length` is the size of its JSON in bytes (None: all of it).

    `unchecked`: where to note BYTES tensors that are still to be checked.

    Raises `RequestError` only.
    """
    head, tail = (body, memoryview(b"")) if header_length is None else split_body(body, header_length)
    document = parse_json(head)
    if type(document) is not dict:
        raise RequestError(f"the body must be a JSON object, got {kind(document)}")
    check_depth(document, max_json_depth)
    identity, parameters = _read_envelope(document)
    reader = None if header_length is None else TensorReader(tail, unchecked)
    shorthand = "input" in document
    if shorthand:
        if "inputs" in document:
            raise RequestError("give either inputs or the one-row shorthand input, not both")
        found = _read_row(document["input"], signature)
    else:
        found = _read_inputs(document.get("inputs"), signature, reader)
    if reader is not None:
        reader.finish()
    shapes = [found[spec.name][0] for spec in signature.inputs]
    payloads = [found[spec.name][1] for spec in signature.inputs]
    _check_rows(signature, shapes)
    return Read(payloads, shapes, identity, parameters, document.get("outputs"), shorthand)


def parse_json(head: Body) -> Any:
    """JSON text to Python values; NaN, Infinity and -Infinity are let through. Raises `RequestError` only."""
    if not len(head):
        raise RequestError("the body is empty; it must be a JSON object")
    try:
        return msgspec.json.decode(head)
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except (msgspec.DecodeError, ValueError):
        pass
    with json_errors():
        text = bytes(head).decode()
        return json.loads(text, parse_float=_finite)


@contextlib.contextmanager
def json_errors() -> Iterator[None]:
    """What Python's own parser says of a body as a `RequestError`."""
    try:
        yield
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise RequestError("the body is not JSON: an integer has too many digits") from None


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise RequestError(f"the body holds a number beyond the range of FP64: {show(text)}")
    return value


def check_depth(document: dict[str, Any], limit: int) -> None:
    """Raises `RequestError` where anything but tensor data, which must match its shape, nests deeper than `limit`."""
    level: list[Any] = [document]
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise RequestError(f"the body is nested deeper than {limit}")
        following: list[Any] = []
        for node in level:
            items = node.items() if type(node) is dict else enumerate(node)
            following.extend(
                value for key, value in items if type(value) in (dict, list) and not (depth == 3 and key == "data")
            )
        level = following


def _read_envelope(document: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    identity = document.get("id", "")
    if type(identity) is not str:
        raise RequestError(f"id must be a string, got {show(identity)}")
    check_text(identity, "id")
    parameters = document.get("parameters")
    if parameters is not None and type(parameters) is not dict:
        raise RequestError(f"parameters must be an object, got {kind(parameters)}")
    return identity, parameters


Found = dict[str, tuple[tuple[int, ...], Payload]]


def _read_inputs(inputs: Any, signature: Signature, reader: TensorReader | None) -> Found:
    if inputs is None:
        raise RequestError("the body has no inputs")
    if type(inputs) is not list:
        raise RequestError(f"inputs must be a list, got {kind(inputs)}")
    specs = {spec.name: spec for spec in signature.inputs}
    found: Found = {}
    for position, item in enumerate(inputs):
        if type(item) is not dict:
            raise RequestError(f"inputs[{position}] must be an object, got {kind(item)}")
        spec = _spec_of(item.get("name"), f"inputs[{position}]", specs)
        if spec.name in found:
            raise RequestError(f"input {show(spec.name)} is given twice")
        found[spec.name] = _read_input(item, spec, signature, reader)
    _check_complete(found, signature)
    return found


def _spec_of(name: Any, where: str, specs: dict[str, TensorSpec]) -> TensorSpec:
    if type(name) is not str:
        raise RequestError(f"{where}: name must be a string, got {'nothing' if name is None else show(name)}")
    spec = specs.get(name)
    if spec is None:
        raise RequestError(f"the model has no input {show(name)}; it has {', '.join(specs)}")
    return spec


def _check_complete(found: Found, signature: Signature) -> None:
    missing = [spec.name for spec in signature.inputs if spec.name not in found]
    if missing:
        raise RequestError(f"input {', '.join(map(show, missing))} is missing")


def _read_input(
    item: dict[str, Any], spec: TensorSpec, signature: Signature, reader: TensorReader | None
) -> tuple[tuple[int, ...], Payload]:
    name = spec.name
    datatype = item.get("datatype")
    if datatype != spec.datatype:
        known = type(datatype) is str and datatype in NUMPY_TYPES
        got = "nothing" if datatype is None else show(datatype)
        unknown = "" if known or datatype is None else ", which is no datatype of the protocol"
        if datatype == "BF16":
            unknown = ", which is not supported: convert it to FP32"
        raise RequestError(f"input {show(name)}: expected datatype {spec.datatype}, got {got}{unknown}")
    if "shape" not in item:
        raise RequestError(f"input {show(name)} has no shape")
    shape = read_shape(item["shape"], name)
    check_shape(shape, spec, signature)
    size_bytes = _binary_size(item.get("parameters"), name)
    if size_bytes is None:
        if "data" not in item:
            raise RequestError(f"input {show(name)} has no data")
        return shape, payload_of(flatten(item["data"], shape, name), spec.datatype, name)
    if "data" in item:
        raise RequestError(f"input {show(name)} has both data and binary_data_size; give one")
    if reader is None:
        raise RequestError(
            f"input {show(name)}: binary_data_size needs the request header Inference-Header-Content-Length"
        )
    return shape, reader.take(size_bytes, spec.datatype, shape, name)


def _binary_size(parameters: Any, name: str) -> int | None:
    if parameters is None:
        return None
    if type(parameters) is not dict:
        raise RequestError(f"input {show(name)}: parameters must be an object, got {kind(parameters)}")
    if any(key.startswith("shared_memory_") for key in parameters):
        raise RequestError(f"input {show(name)}: shared memory is not supported", code="unsupported")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise RequestError(f"input {show(name)}: binary_data_size must be an integer of at least 0, got {show(size)}")
    return size


def check_shape(shape: tuple[int, ...], spec: TensorSpec, signature: Signature) -> None:
    """Raises `RequestError` where `shape` (whole, with the batch axis if there is one) does not fit the model."""
    expected = signature.wire_shape(spec)
    if len(shape) != len(expected) or any(want not in (-1, got) for want, got in zip(expected, shape, strict=True)):
        raise RequestError(f"input {show(spec.name)}: expected shape {expected}, got {list(shape)}")
    check_empty(shape, spec.name)


def _check_rows(signature: Signature, shapes: list[tuple[int, ...]]) -> None:
    if not signature.batched:
        return
    for spec, shape in zip(signature.inputs[1:], shapes[1:], strict=True):
        if shape[0] != shapes[0][0]:
            raise RequestError(
                f"inputs must have the same number of rows: {show(signature.inputs[0].name)} has {shapes[0][0]}, "
                f"{show(spec.name)} has {shape[0]}"
            )


def _read_row(row: Any, signature: Signature) -> Found:
    """The one-row shorthand: `{name: value}`, each value nested as the row's shape."""
    if type(row) is not dict:
        raise RequestError(f"input must be an object of name and value, got {kind(row)}")
    specs = {spec.name: spec for spec in signature.inputs}
    found: Found = {}
    for name, value in row.items():
        spec = _spec_of(name, "input", specs)
        found[name] = read_value(value, spec, signature)
    _check_complete(found, signature)
    return found


def read_value(value: Any, spec: TensorSpec, signature: Signature) -> tuple[tuple[int, ...], Payload]:
    """One row's value, nested as the row's shape: its whole shape and its payload. Raises `RequestError`."""
    rank = len(spec.row_shape)
    if type(value) is not list:
        if any(axis not in (1, -1) for axis in spec.row_shape):
            _refuse_row(spec, kind(value))
        shape: tuple[int, ...] = (1,) * rank
        flat = [value]
    else:
        shape = nested_shape(value)
        # An empty list ends the nesting early: the axes behind it are as the model has them.
        if shape[-1] == 0 and len(shape) < rank:
            shape += tuple(max(axis, 0) for axis in spec.row_shape[len(shape) :])
        if len(shape) != rank or any(want not in (-1, got) for want, got in zip(spec.row_shape, shape, strict=True)):
            _refuse_row(spec, f"shape {list(shape)}")
        check_empty(shape, spec.name)
        flat = flatten(value, shape, spec.name)
    whole = (1, *shape) if signature.batched else shape
    return whole, payload_of(flat, spec.datatype, spec.name)


def _refuse_row(spec: TensorSpec, got: str) -> NoReturn:
    wanted = f"nested as shape {list(spec.row_shape)}" if spec.row_shape else "a single value"
    raise RequestError(f"input {show(spec.name)}: expected one row, {wanted}, got {got}")
