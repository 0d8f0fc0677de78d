"""Both clients over HTTP: what they send, how they fail, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from tests.unit.client.both import KINDS, Both

import forebay
from forebay.client import InvalidAnswerError, Retries, UnreachableError
from forebay.core.errors import DeadlineExceeded, ForebayError, RequestError, SetupError

X = {"x": np.zeros((1, 2), "f4")}
TENSOR = {"name": "y", "datatype": "FP32", "shape": [1], "data": [4.0]}
GOOD = json.dumps({"model_name": "m", "outputs": [TENSOR]}).encode()
HTTP_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
FAST = Retries(attempts=3, first_wait_s=0.0)

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@contextlib.asynccontextmanager
async def raw_server(serve: Streams) -> AsyncIterator[str]:
    """A TCP server that does what `serve` does with each connection."""

    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return head


async def test_what_is_sent(kind: str) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=GOOD)

    options: dict[str, Any] = {"api_key": "fb_secret\n", "headers": {"X-Team": "a"}}
    async with Both(kind, "http://server:81/prefix/", handler, **options) as both:
        assert (await both.infer("a/b", X))["y"].tolist() == [4.0]
        assert "fb_secret" not in repr(both.client)
    (request,) = seen
    assert str(request.url) == "http://server:81/prefix/v2/models/a%2Fb/infer"
    assert request.headers["authorization"] == "Bearer fb_secret"
    assert request.headers["x-team"] == "a"
    assert request.headers["accept-encoding"] == "identity"
    assert int(request.headers["content-length"]) == len(request.content)
    assert "transfer-encoding" not in request.headers


async def test_a_server_without_our_extensions_is_served_in_json(kind: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            inputs = [{"name": "x", "datatype": "INT32", "shape": [-1, 2]}]
            return httpx.Response(200, json={"name": "m", "platform": "", "inputs": inputs})
        document = json.loads(request.content)
        assert document["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]
        return httpx.Response(200, content=GOOD)

    async with Both(kind, handler=handler, binary=False, timeout_s=None) as both:
        result = await both.infer("m", [[1, 2]])
        assert (result.model_name, result.model_version, result["y"].tolist()) == ("m", "", [4.0])


async def test_a_connection_that_breaks_is_tried_again(kind: str) -> None:
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await read_request(reader)
        # Closed without a word, then in the middle of an answer, then well.
        writer.write({1: b"", 2: HTTP_GOOD[:-9]}.get(tries, HTTP_GOOD))
        await writer.drain()

    async with raw_server(serve) as url, Both(kind, url, retries=FAST) as both:
        assert (await both.infer("m", X)).attempts == 3
    assert tries == 3


async def test_nobody_there_is_one_clear_error(kind: str) -> None:
    async with raw_server(read_nothing) as url:
        pass
    async with Both(kind, url, retries=FAST) as both:
        with pytest.raises(UnreachableError, match="POST /v2/models/m/infer: ") as caught:
            await both.infer("m", X)
        assert caught.value.code == "server_unreachable"
        assert await both.call("live") is False
        assert await both.call("ready", "m") is False


async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_server_that_is_silent_costs_no_more_than_the_timeout(kind: str) -> None:
    async with raw_server(read_nothing) as url, Both(kind, url, timeout_s=0.2) as both:
        with pytest.raises(DeadlineExceeded):
            await both.infer("m", X)


async def test_a_server_that_trickles_costs_no_more_than_the_timeout(kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(serve) as url, Both(kind, url, timeout_s=0.3) as both:
        with pytest.raises(DeadlineExceeded):
            await both.infer("m", X)


async def test_waiting_for_a_connection_counts_too(kind: str) -> None:
    """The pool's only connection is held by another call, longer than this one has."""
    held = asyncio.Event()
    free = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_request(reader)
            held.set()
            await free.wait()
            writer.write(HTTP_GOOD)
            await writer.drain()

    async with raw_server(serve) as url, Both(kind, url, max_connections=1) as both:
        first = asyncio.create_task(both.infer("m", X))
        await held.wait()
        with pytest.raises(DeadlineExceeded):
            await both.infer("m", X, timeout_s=0.2)
        free.set()
        assert (await first)["y"].tolist() == [4.0]
        assert (await both.infer("m", X))["y"].tolist() == [4.0]


async def test_a_kept_connection_that_the_server_has_closed_is_replaced(kind: str) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HTTP_GOOD)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with raw_server(serve) as url, Both(kind, url, retries=FAST) as both:
        for _ in range(5):
            assert (await both.infer("m", X))["y"].tolist() == [4.0]
            await closed.wait()
            closed.clear()


async def test_an_early_refusal_of_a_large_body_is_read(kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error": "too large", "code": "payload_too_large"}'
        writer.write(b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        await reader.read()

    async with raw_server(serve) as url, Both(kind, url) as both:
        with pytest.raises(RequestError, match="too large") as caught:
            await both.infer("m", {"x": np.zeros(100_000, "f4")})
        assert caught.value.status == 413


async def test_a_redirect_is_not_followed_with_the_key(kind: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "server"
        return httpx.Response(307, headers={"location": "http://elsewhere/"})

    async with Both(kind, handler=handler, api_key="k") as both:
        with pytest.raises(ForebayError, match="307") as caught:
            await both.infer("m", X)
        assert caught.value.status == 307


async def test_a_web_page_instead_of_an_answer_is_an_invalid_answer(kind: str) -> None:
    async with Both(kind, handler=lambda request: httpx.Response(200, text="<html>")) as both:
        with pytest.raises(InvalidAnswerError):
            await both.infer("m", X)
        with pytest.raises(InvalidAnswerError):
            await both.call("metadata", "m")


async def test_a_cancelled_call_closes_its_connection_and_the_client_goes_on() -> None:
    began, left = asyncio.Event(), asyncio.Event()
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await read_request(reader)
        if tries > 1:
            writer.write(HTTP_GOOD)
            await writer.drain()
            return
        began.set()
        assert await reader.read() == b""
        left.set()

    async with raw_server(serve) as url, Both("async", url, max_connections=1) as both:
        call = asyncio.create_task(both.infer("m", X))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await left.wait()
        assert (await both.infer("m", X))["y"].tolist() == [4.0]


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("127.0.0.1:8000", {}, "url must be like"),
        ("ftp://server", {}, "url must be like"),
        ("http://", {}, "url must be like"),
        ("http://server:port", {}, "url"),
        ("http://server", {"max_connections": 0}, "max_connections"),
        ("http://server", {"timeout_s": 0.0}, "timeout_s"),
        ("http://server", {"api_key": "fb sëcret"}, "the API key holds characters that no key has"),
        ("http://server", {"headers": {"a b": "c"}}, "'a b' is no name of a header"),
        ("http://server", {"headers": {"a": "secret\r\nb: c"}}, "the header 'a' holds a line end"),
    ],
)
async def test_options_that_cannot_be_are_refused(kind: str, url: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(SetupError, match=text) as told:
        Both(kind, url, **options)
    assert not any(secret in told.value.message for secret in ("sëcret", "secret"))


async def test_an_unknown_option_is_refused_by_name(kind: str) -> None:
    with pytest.raises(TypeError, match="no option apikey"):
        Both(kind, apikey="k")


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    for name, call in inspect.getmembers(forebay.Client, inspect.isfunction):
        if not name.startswith("_"):
            here, there = inspect.signature(call), inspect.signature(getattr(forebay.AsyncClient, name))
            assert here.parameters == there.parameters, name
            assert here.return_annotation == there.return_annotation.removeprefix("Async"), name


def test_without_httpx_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['httpx'] = None; import forebay; forebay.Model; forebay.Client"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert 'SetupError: forebay.Client needs httpx; install it with: pip install "forebay[client]"' in ended.stderr
