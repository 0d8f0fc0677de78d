"""Judging one answer: is it a success, a refusal, and which tensors does it hold? Pure; raises `Violation`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from forebay.conformance.check import Got, expect, violated
from forebay.conformance.tensors import DATATYPES, NUMPY, Tensor, from_json, unpack

HEADER_LENGTH = "Inference-Header-Content-Length"


def strict_json(body: bytes) -> Any:
    """A JSON document by RFC 8259: no NaN, no Infinity. Raises `Violation`."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        violated("a JSON document", f"{error}: {body[:200]!r}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def lenient_json(body: bytes) -> Any:
    """JSON that may hold NaN and Infinity, which many servers write. Raises `Violation`."""
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        violated("a JSON document", f"{error}: {body[:200]!r}")


def ok(got: Got) -> None:
    """Raises `Violation` unless the status is 200."""
    expect(got.status == 200, "status 200")


def document(got: Got) -> dict[str, Any]:
    """The JSON object of a 200. For an inference answer with binary data: of its JSON part."""
    ok(got)
    found = lenient_json(json_part(got))
    expect(isinstance(found, dict), "a JSON object")
    return dict(found)


def json_part(got: Got) -> bytes:
    """The JSON in front of the binary data; the whole body where there is none."""
    length = header_length(got)
    return got.body if length is None else got.body[:length]


def header_length(got: Got) -> int | None:
    """The length of the JSON part, where the header is given. Raises `Violation` where it is no number within "
    "the body."""
    value = got.header(HEADER_LENGTH)
    if value is None:
        return None
    expect(value.isascii() and value.isdigit(), f"a number in {HEADER_LENGTH}", value)
    expect(int(value) <= len(got.body), f"{HEADER_LENGTH} within the body of {len(got.body)} bytes", value)
    return int(value)


def is_json_type(got: Got) -> None:
    """Raises `Violation` unless the content type is JSON."""
    value = got.header("Content-Type") or ""
    expect(
        value.partition(";")[0].strip().lower() == "application/json", "Content-Type: application/json", value or "none"
    )


def refused(got: Got) -> None:
    """Raises `Violation` unless it is an HTTP error whose body is the protocol's error object."""
    expect(400 <= got.status < 600, "an HTTP error status")
    found = lenient_json(got.body)
    text = found.get("error") if isinstance(found, dict) else None
    expect(isinstance(text, str) and bool(text), 'a JSON object with the string "error"')


def text_of(holder: dict[str, Any], key: str) -> str:
    """A member that must be a string. Raises `Violation`."""
    value = holder.get(key)
    expect(isinstance(value, str), f'"{key}" to be a string', f"{key}: {value!r}")
    return str(value)


def is_shape(value: Any, lowest: int = 0) -> bool:
    """Whether it is a list of whole numbers of at least `lowest`."""
    return isinstance(value, list) and all(type(axis) is int and axis >= lowest for axis in value)


def outputs_of(got: Got) -> list[Tensor]:
    """The output tensors of a 200, JSON and binary, in order. Raises `Violation` where they break the form.

    Outputs of datatypes that the kit cannot read (BF16) are left out.
    """
    answer = document(got)
    entries = answer.get("outputs")
    expect(isinstance(entries, list), '"outputs" to be an array', entries)
    length = header_length(got)
    rest = b"" if length is None else got.body[length:]
    found: list[Tensor] = []
    place = 0
    for entry in entries or []:
        expect(isinstance(entry, dict), "outputs to be objects", entry)
        size = _binary_size(entry)
        if size is not None:
            expect(length is not None, f"the header {HEADER_LENGTH} with binary data")
            expect(
                place + size <= len(rest), f"{size} bytes of {entry.get('name')} in the body", f"{len(rest) - place}"
            )
        piece = rest[place : place + size] if size is not None else None
        place += size or 0
        tensor = _output(entry, piece)
        if tensor is not None:
            found.append(tensor)
    expect(place == len(rest), "binary_data_size to add up to the bytes behind the JSON", f"{place} of {len(rest)}")
    return found


def _binary_size(entry: dict[str, Any]) -> int | None:
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    expect(size is None or (type(size) is int and size >= 0), "binary_data_size to be a whole number", size)
    return None if size is None else int(size)


def _output(entry: dict[str, Any], piece: bytes | None) -> Tensor | None:
    name, datatype = text_of(entry, "name"), text_of(entry, "datatype")
    shape = entry.get("shape")
    expect(is_shape(shape), f'"shape" of {name} to be an array of whole numbers', shape)
    expect(datatype in DATATYPES, f"a datatype of the specification for {name}", datatype)
    if datatype not in NUMPY:
        return None
    try:
        if piece is not None:
            return unpack(name, datatype, shape or [], piece)
        expect("data" in entry, f'"data" of {name}', "none")
        return from_json(name, datatype, shape or [], entry["data"])
    except ValueError as error:
        violated(f"data of output {name} that fits its datatype and shape", error)


def named(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors by name. Raises `Violation` where a name comes twice."""
    found = {tensor.name: tensor for tensor in tensors}
    expect(len(found) == len(tensors), "each output once", [tensor.name for tensor in tensors])
    return found
