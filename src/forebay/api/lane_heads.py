"""What the express lane writes: response heads, and the answers that it gives by itself. Knows nothing of uvicorn."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools

from forebay.api.encode import JSON_HEADERS, HeaderPairs
from forebay.api.problems import STATUSES, Answer, closing, problem

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n"
    % (status, HTTPStatus(status).phrase.encode() if status in HTTPStatus._value2member_map_ else b"")
    for status in {200, 202, *STATUSES.values()}
}

MOST_HEAD_BYTES = 64 << 10
"""A head that is longer, and what arrived together with its beginning, is refused."""

MOST_TARGET_BYTES = 65_535
"""Of a request target; httptools parses none that is longer."""

_HOST = re.compile(rb"(\[[0-9A-Za-z:.\-_~!$&'()*+,;=]+\]|[0-9A-Za-z.\-_~%!$&'()*+,;=]*)(:[0-9]*)?[ \t]*")

CACHE_HEADERS = frozenset((b"cache-control", b"cache-tag"))
"""Of these too only models have need that have a cache."""
WATCHED = frozenset(
    (
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"inference-header-content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"connection",
        b"expect",
        b"upgrade",
        b"prefer",
        b"idempotency-key",
        *CACHE_HEADERS,
    )
)
"""Request headers that the express lane looks at; those that it does not know what to do with send a request away."""


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


def is_host(value: bytes) -> bool:
    """Whether a Host header's value is a host with or without a port, or empty (RFC 9110, 7.2; RFC 3986, 3.2.2)."""
    return _HOST.fullmatch(value) is not None


def refusal_of(target: bytes, headers: HeaderPairs, version: str) -> Answer | None:
    """Why a request is not taken, by its head alone; None: it may be."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return malformed("a request needs exactly one Host header (RFC 9112, 3.2)")
    if hosts and not is_host(hosts[0]):
        return malformed(f"the Host header {hosts[0][:100].decode('latin-1')!r} names no host (RFC 9112, 3.2)")
    if len(target) > MOST_TARGET_BYTES:
        told = f"the request target has {len(target)} bytes; {MOST_TARGET_BYTES} are taken"
        return closing(problem("target_too_long", told))
    return None


def malformed(reason: str) -> Answer:
    """The last answer to what is no HTTP."""
    return closing(problem("invalid_request", f"malformed HTTP: {reason}"))


def origin_form(target: bytes) -> bytes:
    """A request target without scheme and authority (RFC 9112, 3.2.2). Raises httptools' errors and `ValueError`."""
    if target[:1] == b"/" or target == b"*":
        return target
    url = httptools.parse_url(target)
    if url.schema is None:
        raise ValueError(target)
    return (url.path or b"/") + (b"?" + url.query if url.query is not None else b"")


def unasked(method: bytes, target: bytes, version: str, headers: HeaderPairs) -> bytes:
    """The head of a request as if it had not asked for another protocol."""
    lines = [b"%b: %b\r\n" % pair for pair in headers if pair[0] != b"upgrade"]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), b"".join(lines))


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
