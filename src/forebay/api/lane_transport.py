"""Closing a connection so that its last answer arrives. Knows nothing of uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def _discard(data: bytes | bytearray | memoryview[Any]) -> None:
    """Stands for `write` once the connection is closed."""


class LingeringTransport(asyncio.Transport):
    """A transport that closes in two steps where the client may still be sending (RFC 9112, 9.6).

    A socket that is closed with bytes unread is reset, and a reset may take the answer from the client that has not
    read it yet. So our side ends first; the other is read, unheeded, until the client ends it or `finish` is called.
    """

    def __init__(self, transport: asyncio.Transport, sending: Callable[[], bool]) -> None:
        """`sending`: asked at the close, whether the client may not have finished."""
        super().__init__()
        self.bare = transport
        self._sending: Callable[[], bool] | None = sending
        self._closed = False
        self.lingers = False
        self.write = transport.write  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]

    def is_closing(self) -> bool:
        """Whether nothing more is written."""
        return self._closed or self.bare.is_closing()

    def close(self) -> None:
        """After what has been written, and at once or in two steps. Called again: at once."""
        if self._closed:
            self.bare.close()
            return
        self._closed = True
        self.write = _discard  # type: ignore[method-assign]
        if self.bare.is_closing() or self._sending is None or not self._sending() or not self.bare.can_write_eof():
            self.bare.close()
            return
        self.lingers = True
        self.bare.write_eof()
        self.bare.resume_reading()

    def abort(self) -> None:
        """At once, whatever has been written."""
        self._closed = True
        self.write = _discard  # type: ignore[method-assign]
        self.bare.abort()

    def forget(self) -> None:
        """The connection is gone: nothing refers back to it."""
        self._sending = None
