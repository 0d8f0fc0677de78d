"""Tensors as the specification writes them, in JSON and in binary form. Shares no code with the server's own."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NUMPY: dict[str, str] = {
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    "BOOL": "?",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
"""Datatypes of the specification that the kit can make, with their numpy types."""

DATATYPES = (*NUMPY, "BF16")
"""Every datatype of the specification's table."""

_FREE_AXIS = 4
_FLOATS = (-0.75, 1.25, 0.5, -2.0, 3.5, 0.125, -1.5)
_TEXTS = ("river", "basin water", "gate")


class Tensor(msgspec.Struct, frozen=True):
    """One tensor: `array` has the shape; BYTES elements are `bytes` in an object array."""

    name: str
    datatype: str
    array: Array
    binary: bool = False
    """It came in the binary form."""

    @property
    def shape(self) -> list[int]:
        """Its shape."""
        return list(self.array.shape)

    def json(self, nested: bool = False) -> dict[str, Any]:
        """As a request input with its data in JSON."""
        return {"name": self.name, "shape": self.shape, "datatype": self.datatype, "data": json_data(self, nested)}


def concrete(shape: Sequence[int], rows: int = 1) -> list[int]:
    """A shape without variable axes: `rows` for a leading one, 4 for any other."""
    return [axis if axis >= 0 else (rows if place == 0 else _FREE_AXIS) for place, axis in enumerate(shape)]


def make(name: str, datatype: str, shape: Sequence[int], place: int = 0) -> Tensor:
    """A tensor of plain values, the same every time: numbers of both signs, whole numbers from 1 to 7, words.

    `place` (of the input) starts the values elsewhere, so that inputs of one datatype can be told apart. Raises
    `ValueError` for a datatype that the kit cannot make.
    """
    if datatype not in NUMPY:
        raise ValueError(f"input {name}: the kit cannot make {datatype}")
    count = math.prod(shape)
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = [_TEXTS[at % len(_TEXTS)].encode() for at in range(place, place + count)]
    elif datatype == "BOOL":
        array = np.arange(place, place + count) % 2 == 0
    elif datatype.startswith("FP"):
        array = np.resize(np.roll(_FLOATS, -place), count).astype(NUMPY[datatype])
    else:
        array = (np.arange(place, place + count) % 7 + 1).astype(NUMPY[datatype])
    return Tensor(name, datatype, array.reshape(shape))


def json_data(tensor: Tensor, nested: bool = False) -> Any:
    """The elements as JSON values: flat, or nested as the shape."""
    array = tensor.array
    if tensor.datatype == "BYTES":
        texts = np.empty(array.size, dtype=object)
        texts[:] = [value.decode() for value in array.reshape(-1)]
        array = texts.reshape(array.shape)
    return array.tolist() if nested else array.reshape(-1).tolist()


def pack(tensor: Tensor) -> bytes:
    """The binary form: "little-endian byte order, row major, without stride or padding between elements"."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.array.reshape(-1))
    return np.ascontiguousarray(tensor.array, dtype=NUMPY[tensor.datatype]).tobytes()


def unpack(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """From the binary form. Raises `ValueError` where `data` is not exactly one tensor of that shape."""
    count = math.prod(shape)
    if datatype == "BYTES":
        values: list[bytes] = []
        place = 0
        while place < len(data):
            if place + 4 > len(data):
                raise ValueError(f"ends inside the length of element {len(values)}")
            (size,) = struct.unpack_from("<I", data, place)
            place += 4 + size
            if place > len(data):
                raise ValueError(f"element {len(values)} of {size} bytes runs past the end")
            values.append(data[place - size : place])
        if len(values) != count:
            raise ValueError(f"holds {len(values)} elements, its shape {count}")
        array = np.empty(count, dtype=object)
        array[:] = values
        return Tensor(name, datatype, array.reshape(shape), True)
    wanted = np.dtype(NUMPY[datatype])
    if len(data) != count * wanted.itemsize:
        raise ValueError(f"holds {len(data)} bytes, {datatype} of shape {list(shape)} takes {count * wanted.itemsize}")
    if datatype == "BOOL" and any(value > 1 for value in data):
        raise ValueError(f"holds the byte {max(data)}; BOOL is 1 or 0")
    return Tensor(name, datatype, np.frombuffer(data, dtype=wanted).reshape(shape), True)


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """From JSON data, flat or nested as the shape. Raises `ValueError` where it is neither, or a value does not fit."""
    values = _flat(data, shape)
    kinds = {"BOOL": (bool,), "BYTES": (str,)}.get(datatype, (int, float) if datatype.startswith("FP") else (int,))
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and datatype != "BOOL"):
            raise ValueError(f"{datatype} data holds {value!r}")
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = [value.encode() for value in values]
        return Tensor(name, datatype, array.reshape(shape))
    wanted = np.dtype(NUMPY[datatype])
    if wanted.kind in "iu" and values:
        limits = np.iinfo(wanted)
        if min(values) < limits.min or max(values) > limits.max:
            raise ValueError(f"{datatype} data holds a number out of its range")
    with np.errstate(over="ignore"):
        return Tensor(name, datatype, np.array(values, dtype=wanted).reshape(shape))


def _flat(data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"data is {type(data).__name__}, not an array")
    count = math.prod(shape)
    if not any(isinstance(value, list) for value in data):
        if len(data) != count:
            raise ValueError(f"data has {len(data)} elements, its shape {list(shape)} has {count}")
        return data
    level = data
    for place, axis in enumerate(shape):
        if place:
            if not all(isinstance(value, list) for value in level):
                raise ValueError(f"data is not nested as its shape {list(shape)}")
            if any(len(value) != axis for value in level):
                raise ValueError(f"data is not nested as its shape {list(shape)}")
            level = [value for inner in level for value in inner]
        elif len(level) != axis:
            raise ValueError(f"data has {len(level)} rows, its shape {list(shape)}")
    return level


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree: floats to a thousandth (a model may compute a little otherwise in other company)."""
    if one.datatype != other.datatype or one.shape != other.shape:
        return False
    if one.datatype.startswith("FP"):
        return bool(np.allclose(one.array, other.array, rtol=1e-3, atol=1e-5, equal_nan=True))
    return bool(np.array_equal(one.array, other.array))
