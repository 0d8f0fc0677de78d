"""JSON values as tensor payloads: flattening, ranges and exact error messages, one datatype at a time.

Everything here runs where the typed decode of `decode.py` gave up, so it may take its time to say what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from forebay.core.errors import RequestError
from forebay.core.request import Payload
from forebay.core.tensors import NUMPY_TYPES, element_count, pack_bytes

FLOAT_LIMITS: dict[str, float] = {"FP16": 65520.0, "FP32": 3.4028235677973366e38}
"""Finite values at or beyond these round to infinity (largest value plus half a unit in its last place)."""

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for name, dtype in NUMPY_TYPES.items()
    if dtype.kind in "iu"
}
"""Datatype to its least and greatest value."""

MAX_AXIS = (1 << 31) - 1
MAX_EMPTY_ELEMENTS = 1 << 20
"""An empty tensor costs its sender nothing, so its other axes are bounded: they may end up as padding."""

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null", float: "a float"}


def show(value: Any) -> str:
    """A client's value in an error message: ASCII, and never long."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, list | dict):
        return kind(value)
    text = ascii(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 120 else text[:117] + "..."


def kind(value: Any) -> str:
    """What sort of JSON value this is, with its article."""
    return _KINDS.get(type(value), "an integer")


def read_shape(value: Any, name: str) -> tuple[int, ...]:
    """A `shape` member as a tuple. Raises `RequestError` unless it is a list of integers from 0 to 2**31 - 1."""
    if type(value) is not list:
        raise RequestError(f"input {show(name)}: shape must be a list of integers, got {kind(value)}")
    for index, axis in enumerate(value):
        if type(axis) is not int:
            raise RequestError(f"input {show(name)}: shape[{index}] must be an integer, got {show(axis)}")
        if not 0 <= axis <= MAX_AXIS:
            raise RequestError(f"input {show(name)}: shape[{index}] must be from 0 to {MAX_AXIS}, got {show(axis)}")
    return tuple(value)


def check_empty(shape: Sequence[int], name: str) -> None:
    """Raises `RequestError` where an empty tensor names axes that would be large if they were padded."""
    if 0 in shape and element_count([axis for axis in shape if axis]) > MAX_EMPTY_ELEMENTS:
        raise RequestError(
            f"input {show(name)}: empty shape {list(shape)} has other axes of more than {MAX_EMPTY_ELEMENTS} elements"
        )


def flatten(data: Any, shape: Sequence[int], name: str) -> list[Any]:
    """The elements of a `data` member, row-major: a flat list of the right length, or lists nested exactly as `shape`.

    Raises `RequestError` that names the input, what was expected and what came.
    """
    if type(data) is not list:
        raise RequestError(f"input {show(name)}: data must be a list, got {kind(data)}")
    count = element_count(shape)
    if list not in set(map(type, data)):
        if len(data) != count:
            raise RequestError(f"input {show(name)}: shape {list(shape)} holds {count} elements, data has {len(data)}")
        return data
    level: list[Any] = [data]
    for depth, axis in enumerate(shape):
        for node in level:
            if type(node) is not list:
                raise RequestError(
                    f"input {show(name)}: data must nest as shape {list(shape)}: expected a list of {axis} "
                    f"at depth {depth}, got {kind(node)}"
                )
            if len(node) != axis:
                raise RequestError(
                    f"input {show(name)}: data must nest as shape {list(shape)}: expected {axis} items "
                    f"at depth {depth}, got {len(node)}"
                )
        level = list(chain.from_iterable(level))
    if list in set(map(type, level)):
        raise RequestError(f"input {show(name)}: data nests deeper than the {len(shape)} axes of shape {list(shape)}")
    return level


def nested_shape(value: Any) -> tuple[int, ...]:
    """The shape that a nested value seems to have, by its first items (`flatten` checks the rest)."""
    shape: list[int] = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def payload_of(values: list[Any], datatype: str, name: str) -> Payload:
    """Flat JSON values as a payload of `datatype`. Raises `RequestError` that names the input, index and value."""
    if datatype == "BYTES":
        return _pack_strings(values, name)
    if datatype == "BOOL":
        _require(values, (bool,), "true or false", name)
        return bytes(values)
    if datatype in INTEGER_RANGES:
        return _pack_integers(values, datatype, name)
    return _floats(values, datatype, name)


def _require(values: list[Any], types: tuple[type, ...], wanted: str, name: str) -> None:
    if set(map(type, values)) <= set(types):
        return
    index, value = next((i, v) for i, v in enumerate(values) if type(v) not in types)
    raise RequestError(f"input {show(name)}: element {index} must be {wanted}, got {show(value)}")


def _pack_strings(values: list[Any], name: str) -> bytes:
    _require(values, (str,), "a string", name)
    try:
        return pack_bytes(values)
    except UnicodeEncodeError:
        index, value = next((i, v) for i, v in enumerate(values) if any("\ud800" <= c <= "\udfff" for c in v))
        raise RequestError(f"input {show(name)}: element {index} is not Unicode text: {show(value)}") from None


def _pack_integers(values: list[Any], datatype: str, name: str) -> bytes:
    _require(values, (int,), f"an integer ({datatype})", name)
    low, high = INTEGER_RANGES[datatype]
    if values and (min(values) < low or max(values) > high):
        index, value = next((i, v) for i, v in enumerate(values) if not low <= v <= high)
        raise RequestError(
            f"input {show(name)}: element {index} is out of range for {datatype} ({low} to {high}): {show(value)}"
        )
    return np.array(values, dtype=NUMPY_TYPES[datatype]).tobytes()


def _floats(values: list[Any], datatype: str, name: str) -> Payload:
    """FP32 and FP64 stay Python floats; FP16 becomes its binary form. Integers, NaN and infinities are welcome."""
    _require(values, (float, int), f"a number ({datatype})", name)
    limit = FLOAT_LIMITS.get(datatype, math.inf)
    try:
        numbers = np.array(values, dtype=np.float64)
        outside = (np.abs(numbers) >= limit) & np.isfinite(numbers)
        index = int(outside.argmax()) if outside.any() else -1
    except OverflowError:
        index = next(i for i, v in enumerate(values) if type(v) is int and v.bit_length() > 1023)
    if index >= 0:
        raise RequestError(f"input {show(name)}: element {index} is out of range for {datatype}: {show(values[index])}")
    if datatype == "FP16":
        return numbers.astype(np.float16).tobytes()
    floats: list[float] = numbers.tolist()
    return floats
