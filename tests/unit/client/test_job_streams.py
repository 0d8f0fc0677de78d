"""Streams of both clients over HTTP: they come as they are written, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.unit.client.both import KINDS, Both
from tests.unit.client.test_clients import raw_server
from tests.unit.client.test_job_calls import document

from forebay.client import JobEvent, Retries
from forebay.core.errors import DeadlineExceeded, RequestError

FAST = Retries(first_wait_s=0.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STATUS = b'id: 1\nevent: status\ndata: {"sequence": 1, "status": "queued"}\n\n'
DONE = b"id: 2\nevent: done\ndata: %b\n\n" % json.dumps(document(status="succeeded")).encode()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def following(stream: Any) -> JobEvent | None:
    """The next event of a stream of either kind; None: it has ended."""
    if hasattr(stream, "__anext__"):
        found: JobEvent | None = await anext(stream, None)
        return found
    return await asyncio.to_thread(next, stream, None)


async def left(stream: Any) -> None:
    if hasattr(stream, "aclose"):
        await stream.aclose()
    else:
        await asyncio.to_thread(stream.close)


async def test_an_event_is_told_before_the_next_is_written(kind: str) -> None:
    told = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"GET /v1/jobs/j/events HTTP/1.1" in head
        assert b"accept: text/event-stream" in head.lower()
        writer.write(HEAD + chunk(STATUS[:20]) + chunk(STATUS[20:]))
        await told.wait()
        writer.write(chunk(DONE))
        await reader.read()

    async with raw_server(serve) as url, Both(kind, url) as both:
        stream = both.client.stream("j")
        first = await following(stream)
        assert first is not None
        assert (first.kind, first.status) == ("status", "queued")
        told.set()
        last = await following(stream)
        assert last is not None
        assert last.kind == "done"
        # The server holds its end open; the call has ended all the same.
        assert await following(stream) is None


async def test_a_stream_that_breaks_is_opened_again_behind_what_came(kind: str) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).lower())
        if len(heads) == 1:
            writer.write(HEAD + chunk(b"retry: 0\n\n" + STATUS) + b"ff\r\nid: 2")
        elif len(heads) == 2:
            body = b'{"status": 503, "detail": "later", "code": "draining"}'
            writer.write(b"HTTP/1.1 503 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            writer.write(HEAD + chunk(DONE) + b"0\r\n\r\n")
        await writer.drain()

    async with raw_server(serve) as url, Both(kind, url, retries=FAST, max_connections=1) as both:
        stream = both.client.stream("j")
        events = []
        while (event := await following(stream)) is not None:
            events.append(event.sequence)
    assert events == [1, 2]
    assert [b"last-event-id: 1" in head for head in heads] == [False, True, True]


async def test_who_leaves_a_stream_frees_its_connection(kind: str) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"events" not in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(HEAD + chunk(STATUS))
        assert await reader.read() == b""
        gone.set()

    async with raw_server(serve) as url, Both(kind, url, max_connections=1) as both:
        stream = both.client.stream("j")
        await following(stream)
        await left(stream)
        async with asyncio.timeout(10):
            await gone.wait()
        assert await both.call("live")


async def test_a_stream_on_which_nothing_comes_ends_at_its_time(kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(STATUS))
        await reader.read()

    async with raw_server(serve) as url, Both(kind, url) as both:
        stream = both.client.stream("j", timeout_s=0.3)
        assert await following(stream) is not None
        with pytest.raises(DeadlineExceeded, match=r"job j had not ended within 0\.3 s"):
            await following(stream)


async def test_a_stream_that_is_refused_raises_at_its_first_event(kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"status": 404, "detail": "no such job", "code": "job_not_found"}'
        writer.write(b"HTTP/1.1 404 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async with raw_server(serve) as url, Both(kind, url) as both:
        with pytest.raises(RequestError, match="no such job") as caught:
            await following(both.client.stream("j"))
        assert (caught.value.code, caught.value.status) == ("job_not_found", 404)


async def test_a_canceled_stream_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(STATUS))
        assert await reader.read() == b""
        gone.set()

    async with raw_server(serve) as url, Both("async", url) as both:
        stream = both.client.stream("j")
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(10):
            await gone.wait()
