"""What the serving process and the process that writes its log say to each other.

To the writer, items: a head, then a body. Back, reports: a length, then a body. All in the order of what was said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from forebay.models.signature import Signature
from forebay.request_log.row import Origin

MODULE: Final = "forebay.request_log.child"
"""What the process that writes runs."""
REFUSED: Final = 2
"""Its exit code where it was only to look at a function, and that cannot be loaded."""
HEAD: Final = struct.Struct("<BII")
"""Kind, the log that it is about, bytes of the body."""
OPEN, TAKEN, LEAVE, END = range(4)
"""A log's `Opening`; a request, `Taken`; nothing more comes of a log; all so far is to be written and reported of."""
LENGTH: Final = struct.Struct("<I")
"""Bytes of a report."""


class Opening(msgspec.Struct, array_like=True, frozen=True):
    """A log, told before its first request. `origin`: with the tenant left empty. `redact`: the user's function, as
    FILE.py:NAME or MODULE:NAME. `folder`: the model's; `bound_bytes`: what all may take there."""

    origin: Origin
    signature: Signature
    folder: str
    bound_bytes: int
    redact: str | None


class Taken(msgspec.Struct, array_like=True, eq=False):
    """A request and its answer. `at`: seconds since 1970; `shapes`: of its inputs, without the batch axis; `inputs`:
    payloads, where it is read lists and bytes; `outputs`: shape, and the elements in the protocol's binary form."""

    tenant: str
    at: float
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    inputs: list[Any]
    outputs: list[tuple[tuple[int, ...], bytes]]
    parameters: dict[str, Any] | None


class Counted(msgspec.Struct, array_like=True):
    """What became of a log's rows since the last report."""

    place: int
    written: int
    written_bytes: int
    dropped: dict[str, int]


class Note(msgspec.Struct, array_like=True):
    """A line for the server's log. `level` and `fields`: as in `logging` and `telemetry.logs`."""

    level: int
    text: str
    fields: dict[str, Any]


class Report(msgspec.Struct, array_like=True):
    """Answers an END. `held_bytes`: on disk, by model."""

    counted: list[Counted]
    held_bytes: dict[str, int]
    notes: list[Note]


encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder().encode
"""Any of these."""
decode_opening: Final = msgspec.msgpack.Decoder(Opening).decode
decode_taken: Final = msgspec.msgpack.Decoder(Taken).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode
