"""Arrays of numbers as JSON, in the fewest digits that read back to the same value of the array's own type.

NaN and infinities leave as the tokens NaN, Infinity and -Infinity, as Python's json writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import orjson

from forebay.core.tensors import Array

_dumps: Callable[[Any, None, int], bytes] = orjson.dumps
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_HALF_DIGITS = 5
"""Digits that tell every FP16 value from its neighbours."""


def write_numbers(array: Array) -> bytes:
    """The elements of an array of numbers or booleans, nested as its shape; without axes its one value."""
    if array.ndim == 0:
        return write_numbers(array.reshape(1))[1:-1]
    text = _plain(array)
    return text if b"null" not in text else _with_tokens(text, array)


def write_rows(array: Array) -> list[bytes] | None:
    """The numbers of each row of an array [rows, ...] as JSON without brackets.

    None where there is none in a row, or one that JSON has no number for.
    """
    if not array.size:
        return None
    text = _plain(array.reshape(array.shape[0], -1))
    return text[2:-2].split(b"],[") if b"null" not in text else None


def _plain(array: Array) -> bytes:
    """JSON with `null` for NaN and infinities."""
    if array.dtype.char == "e":
        array = _half_values()[array.view(np.uint16)]
    return _dumps(array if array.flags.c_contiguous else np.ascontiguousarray(array), None, _OPTIONS)


def _with_tokens(text: bytes, array: Array) -> bytes:
    odd = array[~np.isfinite(array)].tolist()
    first, *others = text.split(b"null")
    tokens = (b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity" for value in odd)
    return b"".join((first, *(part for token, rest in zip(tokens, others, strict=True) for part in (token, rest))))


@cache
def _half_values() -> Array:
    """Of each FP16 value, by its bits, the float64 that is written in the digits that FP16 needs: 0.1, not 0.09997559.

    orjson writes FP16 as the FP32 that equals it. Powers of ten and products are exact here, so that each quotient is
    the float64 nearest to its decimal.
    """
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = every.astype(np.float64)
    left = np.flatnonzero(np.isfinite(every) & (every != 0))
    for digits in range(1, _HALF_DIGITS + 1):
        halves = every[left]
        exact = np.abs(halves.astype(np.float64))
        power = digits - 1 - np.floor(np.log10(exact))
        up, down = 10.0 ** np.maximum(power, 0), 10.0 ** np.maximum(-power, 0)
        # Halves are rounded up: above a power of two the values lie farther apart than below.
        shorter = np.copysign(np.floor(exact * up / down + 0.5) / up * down, halves)
        with np.errstate(over="ignore"):  # what rounds to beyond FP16 needs another digit
            fits = shorter.astype(np.float16) == halves
        values[left[fits]] = shorter[fits]
        left = left[~fits]
    return values
