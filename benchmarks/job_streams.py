"""Clients of jobs' events, from sockets up: one that waits for a job, and thousands that only stay connected."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from forebay.bench.bodies import Endpoint

Form = Literal["sse", "ws"]
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class HttpClient:
    """One keep-alive connection, blocking."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._socket = socket.create_connection((endpoint.host, endpoint.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Send a whole request; the body of its answer, which has a Content-Length."""
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        found = _LENGTH.search(head + b"\r\n")
        assert found is not None, head
        while len(body) < int(found[1]):
            body += self._socket.recv(65536)
        return body

    def follow(self, path: str, last: bytes) -> bytes:
        """Read a stream of events to its end; what had come when `last` was in it is what counts, and is returned."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        received = b""
        while last not in received:
            received += self._read()
        return received

    def finish(self, received: bytes) -> None:
        """Read what is left of a stream, so that the connection can be used again."""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += self._read()

    def _read(self) -> bytes:
        piece = self._socket.recv(65536)
        if not piece:
            raise RuntimeError("the server has closed a stream")
        return piece

    def close(self) -> None:
        """Close it."""
        self._socket.close()


@contextmanager
def http_client(endpoint: Endpoint) -> Iterator[HttpClient]:
    """A connection for a block."""
    client = HttpClient(endpoint)
    try:
        yield client
    finally:
        client.close()


class SocketClient(HttpClient):
    """A WebSocket that follows one job after another."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._protocol = ClientProtocol(parse_uri(f"ws://{endpoint.host}:{endpoint.port}/v1/ws"))
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while not self._protocol.events_received():
            self._protocol.receive_data(self._read())

    def until_done(self, id: str) -> None:
        """Subscribe, and wait for the job's last event."""
        self._protocol.send_text(json.dumps({"type": "subscribe", "jobs": [id]}).encode())
        self._flush()
        while True:
            self._protocol.receive_data(self._read())
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT and b'"type":"done"' in event.data:
                    assert id.encode() in event.data
                    return

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._socket.sendall(data)


class Listener(asyncio.Protocol):
    """A connection that follows one job, and keeps nothing of what it hears."""

    def __init__(self, endpoint: Endpoint, form: Form, id: str) -> None:
        self._form = form
        self._path = f"/v1/jobs/{id}/{'events' if form == 'sse' else 'ws'}"
        self._protocol = ClientProtocol(parse_uri(f"ws://{endpoint.host}:{endpoint.port}{self._path}"))
        self.transport: asyncio.Transport | None = None
        self.heard = asyncio.Event()
        """It has been told how far the job is."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self.transport = cast(asyncio.Transport, transport)
        if self._form == "sse":
            self.transport.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        else:
            self._protocol.send_request(self._protocol.connect())
            self._flush()

    def data_received(self, data: bytes) -> None:
        """asyncio: something was heard. A WebSocket's pings are answered."""
        if self._form == "sse":
            if b"data:" in data:
                self.heard.set()
            return
        self._protocol.receive_data(data)
        if any(isinstance(event, Frame) and event.opcode is Opcode.TEXT for event in self._protocol.events_received()):
            self.heard.set()
        self._flush()

    def _flush(self) -> None:
        assert self.transport is not None
        for data in self._protocol.data_to_send():
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the server has ended it."""
        self.lost = True


async def open_streams(endpoint: Endpoint, form: Form, ids: Sequence[str], at_once: int = 50) -> list[Listener]:
    """One connection a job, each of which has heard of its job."""
    loop = asyncio.get_running_loop()

    async def one(id: str) -> Listener:
        _, listener = await loop.create_connection(lambda: Listener(endpoint, form, id), endpoint.host, endpoint.port)
        async with asyncio.timeout(30):
            await listener.heard.wait()
        return listener

    listeners: list[Listener] = []
    for start in range(0, len(ids), at_once):
        listeners += await asyncio.gather(*(one(id) for id in ids[start : start + at_once]))
    return listeners
