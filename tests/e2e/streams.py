"""Server-sent events, read by hand from a socket as the specification has it, and the notes of the model `Count`.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from tests.e2e.server import Served


class RawStream:
    """A `generate_stream` request on a socket of its own."""

    def __init__(self, served: Served, model: str, body: Any, *, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", served.port))
        content = json.dumps(body).encode()
        head = (
            f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + content)
        self._file = self.socket.makefile("rb")
        self.complete = False
        """Whether the last chunk, the empty one, has come."""

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def events(self) -> Iterator[tuple[str, Any]]:
        """(event name, data) of each event, as it comes."""
        name, data = "message", ""
        for line in self._lines():
            if line == "":
                if data:
                    yield name, json.loads(data)
                name, data = "message", ""
            elif line.startswith("data:"):
                data += line.removeprefix("data:").removeprefix(" ")
            elif line.startswith("event:"):
                name = line.removeprefix("event:").removeprefix(" ")
            else:
                assert line.startswith(":"), f"not a line of an event stream: {line!r}"

    def _lines(self) -> Iterator[str]:
        rest = b""
        while size := int(self._file.readline() or b"0", 16):
            rest += self._file.read(size)
            assert self._file.read(2) == b"\r\n"
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield line.decode()
        assert rest == b""
        self.complete = self._file.read(2) == b"\r\n"

    def leave(self) -> None:
        """The client is gone."""
        self._file.close()
        self.socket.close()


def notes(served: Served) -> list[str]:
    """What `Count` has noted since the server was ready."""
    lines = (served.folder / "count.events").read_text().splitlines()
    return lines[lines.index("ready") + 1 :] if "ready" in lines else lines


def begin_notes(served: Served) -> None:
    """From now on `notes` counts."""
    with (served.folder / "count.events").open("a") as file:
        file.write("ready\n")
