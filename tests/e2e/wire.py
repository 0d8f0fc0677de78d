"""HTTP at the level of bytes: what stock clients never send, and exactly what came back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """One answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> Wire:
        self.socket.sendall(b"".join(parts))
        return self

    def reply(self, *, head: bool = False) -> Reply:
        """The next answer (1xx are skipped). Raises `ConnectionError` where the server closed without one."""
        while True:
            line = self._file.readline()
            if not line:
                raise ConnectionError("closed without an answer")
            status = int(line.split()[1])
            headers: dict[str, str] = {}
            while (line := self._file.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            if status >= 200:
                break
        if head or status in (204, 304):
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, self._chunks())
        length = headers.get("content-length")
        got = self._file.read(int(length)) if length is not None else self._file.read()
        assert length is None or len(got) == int(length), "the answer was cut short"
        return Reply(status, headers, got)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._file.readline().split(b";")[0], 16):
            parts.append(self._file.read(size))
            self._file.readline()
        self._file.readline()
        return b"".join(parts)

    def line(self) -> bytes:
        """One raw line, for interim answers."""
        return self._file.readline()

    def closed(self) -> bool:
        """Whether the server has closed its side; waits for it up to the socket's timeout."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def wire(port: int, timeout_s: float = 30.0) -> Iterator[Wire]:
    """A connection that is closed at the end."""
    connection = Wire(port, timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def request(path: str, payload: Any = None, *headers: str, method: str = "", version: str = "1.1") -> bytes:
    """A whole request. A payload (JSON, or bytes as they are) makes it a POST with Content-Length, and nothing else."""
    raw = b"" if payload is None else payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    verb = method or ("GET" if payload is None else "POST")
    lines = [f"{verb} {path} HTTP/{version}", "Host: test", *headers]
    if payload is not None and not any("transfer-encoding" in line.lower() for line in headers):
        lines.append(f"Content-Length: {len(raw)}")
    return "\r\n".join([*lines, "", ""]).encode() + raw
