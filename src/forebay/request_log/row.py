"""One row of the log, on both sides of the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from forebay.core.tensors import NUMPY_TYPES, Array, from_buffer, pack_bytes

NO_TENANT: Final = "anonymous"
"""Whose rows these are that came without an API key. No key has this name."""

KEY_BYTES: Final = 16


class Origin(msgspec.Struct, frozen=True):
    """What answered, and for whom. `labels`: names of the classes of its outputs, where it has them. `redacted`:
    whether rows went through the user's function, so that outputs may answer other inputs than stand beside them;
    None: the file does not say.
    """

    model: str
    version: str
    digest: str
    tenant: str
    labels: tuple[str, ...] = ()
    redacted: bool | None = None


class Row(msgspec.Struct, eq=False):
    """A row of a model that batches, or a request of one that does not; arrays have no batch axis.

    `at`: seconds since 1970 when it was answered. BYTES are object arrays of `bytes`.
    """

    at: float
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    parameters: dict[str, Any] = {}


class Tensor(msgspec.Struct, array_like=True):
    """An input or output as it is written; `data` is the protocol's binary form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class Body(msgspec.Struct, array_like=True):
    """A row as it is written."""

    at: float
    inputs: list[Tensor]
    outputs: list[Tensor]
    parameters: dict[str, Any] = {}


_DATATYPES: Final = {dtype: name for name, dtype in NUMPY_TYPES.items()}
encode: Final[Callable[[Body], bytes]] = msgspec.msgpack.Encoder().encode
"""A row as bytes."""
_decode: Final = msgspec.msgpack.Decoder(Body).decode


def body_of(row: Row) -> Body:
    """A row as it is written."""
    return Body(row.at, _tensors(row.inputs), _tensors(row.outputs), row.parameters)


def unpack(body: bytes) -> Row:
    """The row of these bytes. Raises `ValueError`, `MsgspecError` or `RequestError` where they are none."""
    found = _decode(body)
    return Row(found.at, _arrays(found.inputs), _arrays(found.outputs), found.parameters)


def _tensors(arrays: Mapping[str, Array]) -> list[Tensor]:
    tensors = []
    for name, array in arrays.items():
        tensors.append(Tensor(name, _DATATYPES[array.dtype], array.shape, data_of(array)))
    return tensors


def data_of(array: Array) -> bytes:
    """Its elements in the protocol's binary form."""
    return pack_bytes(array.reshape(-1).tolist()) if array.dtype == object else array.tobytes()


def _arrays(tensors: list[Tensor]) -> dict[str, Array]:
    return {one.name: np.asarray(from_buffer(one.data, one.datatype, one.shape, one.name)) for one in tensors}
