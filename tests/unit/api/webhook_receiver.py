"""A receiver of webhooks."""

from __future__ import annotations

import asyncio

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver:
    """An HTTP server that answers each call with the next of `answers`, and with the last one from then on."""

    def __init__(self) -> None:
        self.answers: list[bytes] = [OK]
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.open = self.most_open = 0
        self.hold: asyncio.Event | None = None
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = {"line": line, **{name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}}
            body = await reader.readexactly(int(headers["content-length"]))
            self.calls.append((headers, body))
            if self.hold is not None:
                await self.hold.wait()
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()
