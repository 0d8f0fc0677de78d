"""What the serving process and the process that writes its log say to each other.

To the writer, items: a head, then a body. Back, reports: a length, then a body. All in the order of what was said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
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
OPEN, TAKEN, RUN, LEAVE, END = range(5)
"""A log's `Opening`; a request, `Taken`; several, `Run`; nothing more comes of a log; all so far is to be written and
reported of."""
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


class Run(msgspec.Struct, array_like=True, eq=False):
    """Requests of one row each that were answered together and have much in common. `inputs`: of each; `outputs`: shape
    of a row, and the elements of all rows, one after the other. The rest is as in `Taken`."""

    tenant: str
    at: float
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    inputs: list[list[Any]]
    outputs: list[tuple[tuple[int, ...], bytes]]

    def answers(self) -> list[list[tuple[tuple[int, ...], bytes]]]:
        """Of each output, what each row has of it."""
        found = []
        for shape, data in self.outputs:
            size = len(data) // self.rows
            found.append([(shape, data[place * size : (place + 1) * size]) for place in range(self.rows)])
        return found

    def one_by_one(self) -> Iterator[Taken]:
        """The same, each by itself."""
        for inputs, answer in zip(self.inputs, zip(*self.answers(), strict=True), strict=True):
            outputs = [((1, *shape), data) for shape, data in answer]
            yield Taken(self.tenant, self.at, 1, self.shapes, inputs, outputs, None)


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
decode_run: Final = msgspec.msgpack.Decoder(Run).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode
