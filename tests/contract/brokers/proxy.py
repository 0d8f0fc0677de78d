"""A way to a server on a Unix socket that can be cut, and that can lose an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class Proxy:
    """Passes bytes on. `url` is where clients connect."""

    def __init__(self, path: Path, target: Path) -> None:
        self.url = f"unix://{path}"
        self._path, self._target = path, target
        self._open: set[asyncio.StreamWriter] = set()
        self._lose = b""
        self._silent = False
        self._refuses_then = self._refuses = False
        self.lost = asyncio.Event()

    def silence(self) -> None:
        """Whatever is sent from now on does not arrive, until `cut`."""
        self._silent = True

    def cut(self) -> None:
        """Break every connection, in whatever it is doing."""
        self._silent = False
        for writer in self._open:
            writer.transport.abort()

    def lose_answer_to(self, words: bytes, *, then_refuse: bool = False) -> None:
        """The next call with these words is carried out, but its answer does not arrive; `lost` is set then.
        `then_refuse`: from then on nobody can connect, until `accept`."""
        self._lose, self._refuses_then = words, then_refuse
        self.lost.clear()

    def accept(self) -> None:
        """Who connects is served again."""
        self._refuses = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        to_reader, to_writer = await asyncio.open_unix_connection(str(self._target))
        self._open |= {writer, to_writer}
        losing = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(1 << 20):
                if self._lose and self._lose in data:
                    self._lose, self._refuses = b"", self._refuses_then
                    losing.set()
                if not self._silent:
                    to_writer.write(data)
                    await to_writer.drain()

        async def back() -> None:
            while data := await to_reader.read(1 << 20):
                if losing.is_set():
                    self.lost.set()
                    return
                if not self._silent:
                    writer.write(data)
                    await writer.drain()

        ways = [asyncio.create_task(forward()), asyncio.create_task(back())]
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, to_writer):
                end.transport.abort()
                self._open.discard(end)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        """While it listens."""
        server = await asyncio.start_unix_server(self._serve, str(self._path))
        try:
            yield self
        finally:
            server.close()
            self.cut()
