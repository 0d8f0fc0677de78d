"""An answer as bytes, to be kept outside this process: a header in msgpack, then the raw outputs. Never pickled."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from forebay.cache.entry import Entry, Shapes, nbytes_of

_LENGTH: Final = struct.Struct("<I")


class _Header(msgspec.Struct, array_like=True):
    model: str
    version: str
    tenant: str
    tags: tuple[str, ...]
    rows: int
    shapes: Shapes
    sizes: tuple[int, ...]
    compute_s: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Header).decode


def pack(entry: Entry) -> bytes:
    """Without its times, which are this process's own."""
    data = entry.data if isinstance(entry.data, tuple) else (entry.data,)
    header = _encode(
        _Header(
            *entry.place, entry.tenant, entry.tags, entry.rows, entry.shapes, tuple(map(len, data)), entry.compute_s
        )
    )
    return b"".join((_LENGTH.pack(len(header)), header, *data))


def unpack(key: bytes, value: bytes) -> Entry:
    """An entry without times. Raises `ValueError` for what is none."""
    try:
        (length,) = _LENGTH.unpack_from(value)
        at = _LENGTH.size + length
        header = _decode(value[_LENGTH.size : at])
    except (struct.error, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"not an answer: {error}") from None
    if (
        min(header.sizes, default=0) < 0
        or at + sum(header.sizes) != len(value)
        or len(header.sizes) != len(header.shapes)
    ):
        raise ValueError("not an answer: its size is another")
    data: list[bytes] = []
    start = at
    for size in header.sizes:
        data.append(value[start : start + size])
        start += size
    entry = Entry(
        key,
        (header.model, header.version),
        header.tenant,
        header.tags,
        header.rows,
        header.shapes,
        tuple(data) if len(data) != 1 else data[0],
        nbytes_of(key, header.tags, len(value) - at),
    )
    entry.compute_s = header.compute_s
    return entry
