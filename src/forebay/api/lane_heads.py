"""What the express lane writes: response heads, and the answers that it gives by itself. Knows nothing of uvicorn."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from forebay.api.encode import JSON_HEADERS, HeaderPairs
from forebay.api.problems import STATUSES, Answer, closing, problem

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    for status in {200, *STATUSES.values()}
    if status in HTTPStatus._value2member_map_
}


class ResponseHeads:
    """Response heads up to the value of content-length, which comes last. The usual one is made once a second."""

    __slots__ = ("_defaults", "_lines", "_usual")

    def __init__(self) -> None:
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._lines = b""
        self._usual = b""

    def of(self, answer: Answer, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The head of an answer; `defaults` are uvicorn's headers, a new list whenever they change."""
        usual = self.usual(defaults)
        if answer.headers is JSON_HEADERS and answer.status == 200:
            return usual
        return self._build(answer.status, answer.headers)

    def usual(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The head of a JSON answer with status 200."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._lines = b"".join(b"%b: %b\r\n" % pair for pair in defaults)
            self._usual = self._build(200, JSON_HEADERS)
        return self._usual

    def _build(self, status: int, headers: HeaderPairs) -> bytes:
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return b"%b%b%bcontent-length: " % (_STATUS_LINES[status], self._lines, lines)


def too_slow(part: str, limit_s: float) -> Answer:
    """The answer to a client that did not send all of a head or a body in time."""
    return closing(problem("body_timeout", f"the {part} did not arrive within {limit_s:g} s"))


def answering(answer: Answer) -> Callable[..., Any]:
    """An ASGI app that gives this answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = (b"content-length", b"%d" % len(answer.body))
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
        await send({"type": "http.response.body", "body": answer.body})

    return app
