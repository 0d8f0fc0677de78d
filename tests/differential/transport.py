"""A transport without a socket, with the manners of uvloop's: what a protocol may see of one."""

from __future__ import annotations

import asyncio
from typing import Any

HIGH_WATER_BYTES = 64 << 10


class FakeTransport(asyncio.Transport):
    """Keeps what was written. `reads` False: the client takes nothing, so the write buffer fills."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)})
        self.protocol = protocol
        self.loop = asyncio.get_running_loop()
        self.written = bytearray()
        self.late = bytearray()  # written after the close
        self.buffered_bytes = 0
        self.reads = True
        self.reading = True
        self.closing = False
        self.lost = False
        self.ended = False  # our side only
        self._write_paused = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.ended, "written after the end"
        if self.closing:
            self.late += data
            return
        self.written += data
        if not self.reads:
            self.buffered_bytes += len(data)
            if self.buffered_bytes > HIGH_WATER_BYTES and not self._write_paused:
                self._write_paused = True
                self.protocol.pause_writing()

    def drain(self) -> None:
        """The client reads all there is, and from now on whatever comes."""
        self.reads = True
        self.buffered_bytes = 0
        if self._write_paused and not self.lost:
            self._write_paused = False
            self.protocol.resume_writing()
        if self.closing:
            self._lose(None)

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.buffered_bytes:
                self._lose(None)

    def abort(self) -> None:
        self.closing = True
        self._lose(None)

    def reset(self) -> None:
        """The client's RST."""
        self.closing = True
        self._lose(ConnectionResetError())

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.loop.call_soon(self._leave, error)

    def _leave(self, error: Exception | None) -> None:
        protocol = self.protocol
        del self.protocol  # as uvloop lets go of it
        protocol.connection_lost(error)
