from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from forebay.bench.bodies import Endpoint, http_request
from forebay.bench.connection import Answer
from forebay.bench.generator import run_closed, run_open

Reply = Callable[[bytes], Awaitable[bytes]]
"""Body of the request in, whole answer out; empty bytes close the connection instead."""


def answer(status: int, body: bytes = b"{}", headers: str = "") -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[tuple[str, int]]:
    """An HTTP/1.1 server on a free loopback port until the block ends; gives the address."""
    open_connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        open_connections.add(current)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await converse(reader, writer)
        finally:
            writer.close()
            open_connections.discard(current)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            whole = await reply(await reader.readexactly(int(length.split(b":")[1])))
            if not whole:
                return
            writer.write(whole)
            await writer.drain()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield host, port
    finally:
        server.close()
        for connection in list(open_connections):
            connection.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports let go of their sockets


def pool(address: tuple[str, int], count: int) -> list[bytes]:
    endpoint = Endpoint(*address)
    return [http_request(endpoint, "/x", b"%d" % place) for place in range(count)]


async def test_open_loop_sends_every_body_and_checks_all_answers() -> None:
    seen: list[bytes] = []

    async def reply(body: bytes) -> bytes:
        seen.append(body)
        return answer(200, body)

    def right(place: int, got: Answer) -> bool:
        return got.body == b"%d" % place

    async with serving(reply) as address:
        recording = await run_open(address, pool(address, 50), [i / 1000 for i in range(100)], check=right, sample=1.0)
    result = recording.summarise(0.1, late_bound_ms=1e6)
    assert (result.in_slo, result.checked, result.wrong) == (100, 100, 0)
    assert sorted(seen) == sorted(b"%d" % (place % 50) for place in range(100))


async def test_open_loop_does_not_wait_for_answers() -> None:
    """A server that answers nothing until all requests have arrived: a loop that waited would never get there."""
    arrived = 0
    everyone = asyncio.Event()

    async def reply(body: bytes) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 60:
            everyone.set()
        await everyone.wait()
        return answer(200)

    async with serving(reply) as address:
        recording = await run_open(address, pool(address, 60), [0.0] * 60)
    assert recording.summarise(0.01, late_bound_ms=1e6).in_slo == 60
    assert recording.connections == 60


async def test_an_open_loop_that_is_given_up_sends_nothing_more_and_waits_for_nothing() -> None:
    async def reply(body: bytes) -> bytes:
        await asyncio.Event().wait()
        return answer(200)

    async with serving(reply) as address:
        recording = await run_open(
            address,
            pool(address, 1000),
            [0.0] * 1000,
            answer_timeout_s=1e6,
            give_up=lambda so_far: len(so_far.sent) >= 64,
        )
    assert len(recording.sent) == 64
    assert set(recording.status) == {-1}


async def test_statuses_closed_connections_and_silence_are_told_apart() -> None:
    replies = {b"0": answer(200), b"1": answer(503), b"2": answer(504), b"3": b"", b"4": b"not http\r\n\r\n"}

    async def reply(body: bytes) -> bytes:
        if body == b"5":
            await asyncio.Event().wait()
        return replies[body]

    async with serving(reply) as address:
        recording = await run_open(address, pool(address, 6), [0.0] * 6, answer_timeout_s=0.3)
    assert recording.status == [200, 503, 504, -1, -1, -1]


async def test_wrong_answers_are_counted() -> None:
    async def reply(body: bytes) -> bytes:
        return answer(200, b"same for all")

    async with serving(reply) as address:
        recording = await run_open(address, pool(address, 4), [0.0] * 4, check=lambda place, got: place != 2, sample=1)
    result = recording.summarise(0.01, late_bound_ms=1e6)
    assert (result.checked, result.wrong, result.in_slo, result.errors) == (4, 1, 3, 1)


async def test_a_server_that_closes_after_each_answer_gets_new_connections() -> None:
    async def reply(body: bytes) -> bytes:
        return answer(200, b"{}", "Connection: close\r\n")

    async with serving(reply) as address:
        recording = await run_closed(address, pool(address, 8), 2, 0.2)
    result = recording.summarise(0.2)
    assert result.in_slo > 4
    assert recording.connections > 4
    assert result.void == ""


async def test_closed_loop_keeps_exactly_that_many_under_way() -> None:
    under_way, highest = 0, 0

    async def reply(body: bytes) -> bytes:
        nonlocal under_way, highest
        under_way += 1
        highest = max(highest, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return answer(200)

    async with serving(reply) as address:
        recording = await run_closed(address, pool(address, 8), 5, 0.2)
    assert highest == 5
    assert recording.summarise(0.2).in_slo >= 5
    assert recording.connections == 5


async def test_a_dead_server_is_a_void_closed_run() -> None:
    asked = asyncio.Event()

    async def reply(body: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with serving(reply) as address:
        working = asyncio.ensure_future(run_closed(address, pool(address, 8), 1, 30.0))
        await asked.wait()
    # The server has stopped listening with the block's end: the client cannot connect again.
    recording = await asyncio.wait_for(working, 20)
    assert "could not connect again" in recording.summarise(30.0).void


async def test_no_server_at_all_is_an_error() -> None:
    with pytest.raises(OSError):
        await run_open(("127.0.0.1", 9), pool(("127.0.0.1", 9), 1), [0.0])
