"""One keep-alive HTTP/1.1 client connection that carries one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools
import msgspec


class Answer(msgspec.Struct):
    """A complete answer: status, headers with lower-case names, body."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


Done = Callable[["Connection", Answer | None], None]
"""Called once for each request sent; `None` where the connection broke before the answer was complete."""


class Connection(asyncio.Protocol):
    """Sends prepared request bytes and calls back with the answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: Done | None = None
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self.sequence = -1
        """Which request of the run is under way on this connection; the owner's to set."""

    @property
    def usable(self) -> bool:
        """Whether a request may be sent now."""
        return self._transport is not None and not self._transport.is_closing() and self._done is None

    def send(self, request: bytes, done: Done) -> None:
        """Write one whole request; `done` hears of the answer."""
        self._done = done
        self._headers = {}
        self._chunks = []
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        """Close at once; a request under way ends with `None`."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes arrived."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._finish(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """httptools: the answer is complete."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._finish(Answer(status, self._headers, body))

    def _finish(self, answer: Answer | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, answer)


async def open_connection(host: str, port: int) -> Connection:
    """A new connection. Raises `OSError` where it cannot be made."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, host, port)
    return connection
