"""Server-sent events out of the bytes of a connection. No I/O in here.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n?|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_RETRY_DIGITS = 9


class ServerSentEvent(NamedTuple):
    """One event. `id`: the last one that was told so far, whether with this event or before."""

    kind: str
    data: bytes
    id: str


class EventSource:
    """Takes the bytes of one connection in pieces of any size."""

    def __init__(self) -> None:
        self.retry_s: float | None = None
        """When to come back after a broken connection; None: the server has not said."""
        self._rest = bytearray()
        self._searched = 0
        """Bytes of the rest in which there is no line end."""
        self._begun, self._after_cr = False, False
        self._id, self._kind = "", ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that end in this piece. One that the connection's end cuts off is never told."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        self._rest += piece
        while (line := self._next_line()) is not None:
            event = self._take(line)
            if event is not None:
                yield event

    def _next_line(self) -> bytes | None:
        found = _LINE_END.search(self._rest, self._searched)
        if found is None:
            self._searched = len(self._rest)
            return None
        # A line may end with CR LF, and the piece between the two.
        self._after_cr = found[0] == b"\r" and found.end() == len(self._rest)
        line = bytes(self._rest[: found.start()])
        del self._rest[: found.end()]
        self._searched = 0
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return line

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            kind, data = self._kind or "message", self._data
            self._kind, self._data = "", []
            return ServerSentEvent(kind, b"\n".join(data), self._id) if data else None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _LONGEST_RETRY_DIGITS:
            self.retry_s = int(value) / 1000
        return None
