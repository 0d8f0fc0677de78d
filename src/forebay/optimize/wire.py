"""What a search and its processes say to each other: length-prefixed msgpack over a socket pair, never pickle."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from forebay.core.tensors import Array, datatype_of, from_buffer, to_buffer
from forebay.models.artefact import ServedWith
from forebay.models.source import LoadOptions
from forebay.models.source_files import SourceFile
from forebay.optimize.report import Goals, LayerError, Reason
from forebay.optimize.samples import Row

_HEAD = struct.Struct("<Q")
_RECEIVE_BYTES = 1 << 20


class Tensor(msgspec.Struct, array_like=True, frozen=True):
    """An array in the protocol's binary form."""

    datatype: str
    shape: list[int]
    data: bytes


class Load(msgspec.Struct, frozen=True, tag=True):
    """To a probe, first: what to load, and the file of rows that batches are made of."""

    model: str
    """MODEL argument of `forebay serve`."""
    threads: int
    served_with: ServedWith
    rows: str
    path: list[str]
    """`sys.path` of the search."""
    trust: LoadOptions = LoadOptions()
    """What the model's file may make: the operator's word for the original, which no recipe has."""


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To a probe: answer these batches, given as indices of rows."""

    batches: list[list[int]]


class Time(msgspec.Struct, frozen=True, tag=True):
    """To a probe: run these batches and say how long each took."""

    batches: list[list[int]]


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Of a probe: what it loaded. Shapes are as the protocol's metadata shows them."""

    inputs: dict[str, tuple[str, list[int]]]
    outputs: dict[str, tuple[str, list[int]]]
    seconds: float
    refuses: dict[str, tuple[str, ...]] = {}
    """Input name to what it takes nowhere, see `TensorSpec`; without the inputs that take everything."""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """Of a probe: the outputs of each batch, in the order of its signature."""

    batches: list[list[Tensor]]
    peak_bytes: int


class Timed(msgspec.Struct, frozen=True, tag=True):
    """Of a probe: seconds of each batch."""

    seconds: list[float]
    peak_bytes: int


class Build(msgspec.Struct, frozen=True, tag=True):
    """To a builder: which candidate (`module:Class`) to make of which model, and where."""

    candidate: str
    model: str
    """The original, as a MODEL argument."""
    graph: str
    """The same function as an ONNX file; empty where there is none."""
    kind: str
    rows: str
    """File of the calibration rows."""
    labels: list[str]
    head: str
    folder: str
    shared: str
    output: str
    """The output that is compared."""
    goals: Goals
    path: list[str]


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Of a builder: what it is at."""

    text: str


class Made(msgspec.Struct, frozen=True, tag=True):
    """Of a builder: an artefact in the folder. `model` is a MODEL argument relative to it."""

    model: str
    note: str = ""
    layers: list[LayerError] = []
    served_with: ServedWith = ServedWith()


class Export(msgspec.Struct, frozen=True, tag=True):
    """To an exporter: which function of which file makes the torch module, and where to write what becomes of it."""

    path: str
    factory: str
    name: str
    work: str
    sys_path: list[str]


class Exported(msgspec.Struct, frozen=True, tag=True):
    """Of an exporter: an `Original`, and the files that the factory read."""

    model: str
    graph: str
    """Empty: there is none."""
    note: str
    files: tuple[SourceFile, ...]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Of an exporter: what is wrong with the source, for the user."""

    message: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Of a probe or a builder: it did not work, and why."""

    reason: Reason
    detail: str


class ChannelClosedError(Exception):
    """The other end is gone."""


def send(sock: socket.socket, message: msgspec.Struct) -> None:
    """One message."""
    body = msgspec.msgpack.encode(message)
    sock.sendall(_HEAD.pack(len(body)))
    sock.sendall(body)


def receive(sock: socket.socket, kind: Any) -> Any:
    """The next message, one of `kind`. Raises `ChannelClosedError`, and `TimeoutError` where the socket has one."""
    (size,) = _HEAD.unpack(_exactly(sock, _HEAD.size))
    return msgspec.msgpack.decode(_exactly(sock, size), type=kind)


def _exactly(sock: socket.socket, size: int) -> bytearray:
    body = bytearray()
    while len(body) < size:
        try:
            data = sock.recv(min(size - len(body), _RECEIVE_BYTES))
        except ConnectionError:
            data = b""
        if not data:
            raise ChannelClosedError
        body += data
    return body


def pack(array: Array) -> Tensor:
    """Raises `ValueError` for a type that the protocol has not."""
    datatype = datatype_of(array)
    return Tensor(datatype, list(array.shape), to_buffer(array, datatype))


def unpack(tensor: Tensor) -> Array:
    """The array again, not writable where it is no BYTES."""
    return from_buffer(tensor.data, tensor.datatype, tensor.shape)


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Rows for a process to read."""
    file.write_bytes(msgspec.msgpack.encode([{name: pack(value) for name, value in row.items()} for row in rows]))


def read_rows(file: Path) -> list[Row]:
    """What `write_rows` wrote."""
    found: list[Mapping[str, Tensor]] = msgspec.msgpack.decode(file.read_bytes(), type=list[dict[str, Tensor]])
    return [{name: unpack(tensor) for name, tensor in row.items()} for row in found]
