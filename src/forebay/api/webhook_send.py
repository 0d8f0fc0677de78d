"""One call of a webhook: a POST over a connection of its own, to an address that was looked up and checked just now.

Written on asyncio's streams: of the answer only the status and one header are of interest, and an HTTP library would
look the name up again, by which a name could point elsewhere than when it was checked. Nothing is read of the body, no
redirect is followed, no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from forebay.api.webhook_url import is_public

MOST_HEAD_BYTES = 16 << 10
"""Of an answer's head."""
MOST_INTERIM = 5
"""Interim answers (1xx) that may come before the answer."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*([0-9]{1,6})[ \t]*\r\n", re.IGNORECASE)


class NotSent(Exception):  # noqa: N818 - not an error of ours
    """There was no answer; the text says why."""


class Reply(NamedTuple):
    """What the other side answered; `retry_after_s` where it says so in seconds, else 0."""

    status: int
    retry_after_s: float = 0.0


class Place(NamedTuple):
    """Where a URL points."""

    secure: bool
    host: str
    port: int
    authority: str
    target: str


def place_of(url: str) -> Place:
    """The parts of a URL that was checked when it was accepted. Raises `NotSent` for one that was not."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise NotSent("it is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url) or "@" in parts.netloc:
        raise NotSent("it is not a URL that can be called")
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(secure, host, port or (443 if secure else 80), parts.netloc, target)


async def post(
    place: Place,
    headers: Mapping[str, str],
    body: bytes,
    *,
    timeout_s: float,
    private: bool,
    tls: ssl.SSLContext,
) -> Reply:
    """POST to a webhook. `private`: its address need not be public. `timeout_s`: for all of it.

    Raises `NotSent`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connected(place, private, tls)
            try:
                writer.write(_head(place, headers, len(body)))
                writer.write(body)
                await writer.drain()
                return await _answer(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise NotSent(f"no answer within {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise NotSent(f"TLS: {error.reason or 'failed'}") from None
    except OSError as error:
        raise NotSent(os.strerror(error.errno) if error.errno else "the connection broke") from None


async def _connected(
    place: Place, private: bool, tls: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSent("the host's name is not known") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    allowed = [address for address in addresses if private or is_public(address)]
    if not allowed:
        raise NotSent("the host has no public address")
    for address in allowed[:-1]:
        try:
            return await _open(address, place, tls)
        except OSError:
            continue
    return await _open(allowed[-1], place, tls)


async def _open(address: str, place: Place, tls: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        address,
        place.port,
        limit=MOST_HEAD_BYTES,
        ssl=tls if place.secure else None,
        server_hostname=place.host if place.secure else None,
    )


def _head(place: Place, headers: Mapping[str, str], length: int) -> bytes:
    lines = [
        f"POST {place.target} HTTP/1.1",
        f"host: {place.authority}",
        f"content-length: {length}",
        "connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _answer(reader: asyncio.StreamReader) -> Reply:
    for _ in range(MOST_INTERIM + 1):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            break
        status = _STATUS.match(head)
        if status is None:
            break
        if not status[1].startswith(b"1"):
            retry_after = _RETRY_AFTER.search(head)
            return Reply(int(status[1]), float(retry_after[1]) if retry_after else 0.0)
    raise NotSent("what came was no HTTP answer")
