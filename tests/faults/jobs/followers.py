"""Clients that follow jobs as a browser does: one that is sent away comes back and says what it has had."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

from tests.e2e.wire import Wire, request

PATIENCE_S = 0.05
"""Before a server that is not there is tried again."""


class Follower:
    """Follows one job by server-sent events, over as many connections as it takes."""

    def __init__(self, port: int, id: str) -> None:
        self.id = id
        self.told: list[tuple[int, str]] = []
        """Sequence and kind of every event, in their order."""
        self.connections = 0
        self._port = port
        self._retry_s = 0.0

    @property
    def done(self) -> bool:
        """Whether the end of the job has been told."""
        return bool(self.told) and self.told[-1][1] == "done"

    async def run(self) -> None:
        """Until the job has ended."""
        while not self.done:
            try:
                await self._connection()
            except OSError:
                await asyncio.sleep(PATIENCE_S)
            else:
                await asyncio.sleep(0.0 if self.done else self._retry_s)

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            last = [f"Last-Event-ID: {self.told[-1][0]}"] if self.told else []
            writer.write(request(f"/v1/jobs/{self.id}/events", None, "Connection: close", *last))
            status = (await reader.readline()).split()
            if status[1:2] != [b"200"]:
                raise ConnectionError(f"answered {status}")
            self.connections += 1
            fields: dict[str, str] = {}
            while line := await reader.readline():
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "retry" in fields:
                    self._retry_s = int(fields.pop("retry")) / 1000
                elif "data" in fields:
                    self.told.append((int(fields["id"]), fields["event"]))
                    fields = {}
        finally:
            writer.transport.abort()


@contextlib.contextmanager
def vanishing(port: int, path: str, count: int, *headers: str) -> Iterator[None]:
    """So many connections that are answered on `path`, and at the end gone without a word (RST)."""
    open_ones: list[Wire] = []
    try:
        for _ in range(count):
            connection = Wire(port).send(request(path, None, *headers))
            open_ones.append(connection)
        for connection in open_ones:
            line = connection.line()
            assert line.split()[1] in (b"101", b"200"), line
        yield
    finally:
        for connection in open_ones:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
