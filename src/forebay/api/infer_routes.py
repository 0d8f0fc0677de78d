"""Inference as ASGI endpoints: the same steps as in the express lane, for every request that the lane declines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from forebay.api import job_openapi, openapi
from forebay.api.codings import Inflater, coded, request_coding
from forebay.api.endpoint import Endpoint
from forebay.api.inference import LEAVING, Inference, Leaving
from forebay.api.prefer import NO_PREFERENCES, Preferences, read_preferences
from forebay.api.problems import Answer
from forebay.api.routing import MODEL_PATHS, ClientGone, PlainOperation, add
from forebay.core.caching import CacheAsk
from forebay.core.clock import Clock
from forebay.core.errors import RequestError
from forebay.core.request import Request
from forebay.engine.client import EngineClient

T = TypeVar("T")
TENANT = "forebay.tenant"
"""The key of the caller's name in an ASGI scope."""
AsJob = Callable[[HttpRequest, Endpoint, bytes, Preferences], Awaitable[Answer]]
"""What answers a request of inference that prefers to be a job, once its body is here."""


def add_inference(app: FastAPI, inference: Inference, clock: Clock, as_job: AsJob | None) -> PlainOperation:
    """Adds the operations, and returns one that serves them all.

    as_job: for `Prefer: respond-async`; None: that is a wish which is not granted.
    """

    async def infer(http: HttpRequest) -> Answer:
        arrived = clock()
        headers = dict(http.scope["headers"])
        waiting = Waiting(http)
        await awake(http, headers, inference)
        wish = read_preferences(http.scope["headers"]) if b"prefer" in headers else NO_PREFERENCES
        later = as_job is not None and wish.respond_async
        with let_in(http, headers, inference, as_job=later) as endpoint:
            body = await read_body(http, inference)
            if as_job is not None and later:
                return await as_job(http, endpoint, body, wish)
            request = await _read(endpoint, body, arrived, headers, waiting, inference.server.decode_off_loop_bytes)
            request.cache, request.tenant = ask_of(http, endpoint), http.scope[TENANT]
            waiting.submit(endpoint.engine, request)
        return await as_wanted(endpoint.answer(await waiting.answer()), http, inference)

    described = openapi.inference_responses()
    if as_job is not None:
        described |= job_openapi.as_job_responses()
        described[200]["headers"] |= job_openapi.as_job_headers()
    summary = "Run the model on some rows"
    for path, names in zip(MODEL_PATHS, (("model",), ("model", "version")), strict=True):
        extra = openapi.inference_operation(*names)
        if as_job is not None:
            extra["parameters"] += [job_openapi.RESPOND_ASYNC, job_openapi.KEY]
        added = add(app, path + "/infer", infer, described, summary, "inference", method="POST", extra=extra)
    return added


def ask_of(http: HttpRequest, endpoint: Endpoint) -> CacheAsk | None:
    """What the caller of a request that `let_in` has let in wants of the cache; None where there is none."""
    return None if endpoint.recall is None else endpoint.recall.ask(http.scope["headers"], http.scope[TENANT])


async def awake(http: HttpRequest, headers: Mapping[bytes, bytes], inference: Inference) -> None:
    """`Inference.awake` of the model that a request is for, which is let in by its key and quota first."""
    named = http.path_params
    _enter(http, headers, inference)
    await inference.awake(named["model"], named.get("version"))


def _enter(http: HttpRequest, headers: Mapping[bytes, bytes], inference: Inference) -> None:
    """Its quota is charged once, however many ask."""
    if TENANT not in http.scope:
        http.scope[TENANT] = inference.gate.enter(headers.get(b"authorization"))


@contextmanager
def let_in(
    http: HttpRequest, headers: Mapping[bytes, bytes], inference: Inference, *, as_job: bool = False
) -> Iterator[Endpoint]:
    """The model that a request is for. What can be refused by the head is refused now, before the body.

    Until the block ends, in which the request is to be submitted, a version that is unloaded meanwhile stays open.
    """
    _enter(http, headers, inference)
    endpoint = inference.find(http.path_params["model"], http.path_params.get("version"))
    codings = [value.strip().lower() for name, value in http.scope["headers"] if name == b"transfer-encoding"]
    if codings and codings != [b"chunked"]:
        raise RequestError("no Transfer-Encoding is supported but chunked", code="unsupported")
    length = headers.get(b"content-length", b"")
    request_coding(http.scope["headers"])
    admit = inference.admit_job if as_job else inference.admit
    admit(endpoint, int(length) if length.isdigit() else None)
    endpoint.arriving += 1
    try:
        yield endpoint
    finally:
        endpoint.arriving -= 1


async def read_body(http: HttpRequest, inference: Inference) -> bytes:
    """The whole body, without its content coding, refused as soon as it is known to be too large, or too slow.

    Raises `RequestError` (invalid_request, body_timeout, payload_too_large, unsupported_encoding) or `ClientGone`.
    """
    coding = request_coding(http.scope["headers"])
    inflater = None if coding is None else Inflater(coding)
    if LEAVING in http.scope:
        return await _pieces(http.receive, inference, inflater)
    limit_s = inference.server.body_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await _pieces(http.receive, inference, inflater)
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {limit_s:g} s", code="body_timeout") from None


async def _pieces(receive: Receive, inference: Inference, inflater: Inflater | None) -> bytes:
    pieces: list[bytes] = []
    size_bytes = plain_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if piece:
            size_bytes += len(piece)
            inference.check_length(size_bytes)
            if inflater is None:
                pieces.append(piece)
            else:
                for part in inflater.steps(piece):
                    plain_bytes += len(part)
                    inference.check_length(plain_bytes)
                    pieces.append(part)
                    await asyncio.sleep(0)
        if not message.get("more_body", False):
            if inflater is not None:
                inflater.finish()
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read(
    endpoint: Endpoint,
    body: bytes,
    arrived: float,
    headers: Mapping[bytes, bytes],
    waiting: Waiting,
    decode_off_loop_bytes: int,
) -> Request:
    given = (body, arrived, waiting.end, headers.get(b"content-type"), headers.get(b"inference-header-content-length"))
    if len(body) > decode_off_loop_bytes:
        return await _between_others(endpoint.read_in_steps(*given))
    return endpoint.read(*given)


class Waiting:
    """Submits a request, and waits for its end or its client's."""

    def __init__(self, http: HttpRequest) -> None:
        self._http = http
        self._leaving: Leaving | None = http.scope.get(LEAVING)
        self._done: asyncio.Future[Request | None] = asyncio.get_running_loop().create_future()
        self._engine: EngineClient
        self._request: Request

    def end(self, request: Request | None = None) -> None:
        """The request's `on_done`; without one: the client has left."""
        if not self._done.done():
            self._done.set_result(request)

    def submit(self, engine: EngineClient, request: Request) -> None:
        """Raises what the engine raises, and `ClientGone`."""
        if self._leaving is not None and self._leaving.happened:
            raise ClientGone
        engine.submit(request)
        self._engine, self._request = engine, request

    async def answer(self) -> Request:
        """What was submitted, when it is done. Raises `ClientGone`; the request is then canceled."""
        watching = None
        if self._leaving is not None:
            self._leaving.tell.add(self.end)
        else:
            watching = asyncio.ensure_future(until_gone(self._http.receive))
            watching.add_done_callback(lambda _: self.end())
        answered = None
        try:
            answered = await self._done
        finally:
            if self._leaving is not None:
                self._leaving.tell.discard(self.end)
            if watching is not None:
                watching.cancel()
            if answered is None:
                self._engine.cancel(self._request)
        if answered is None:
            raise ClientGone
        return answered


async def as_wanted(answer: Answer, http: HttpRequest, inference: Inference) -> Answer:
    """A large answer in the content coding that the request wants."""
    if len(answer.body) >= inference.compress_from_bytes:
        return await _between_others(coded(answer, http.scope["headers"]))
    return answer


async def _between_others(steps: Generator[None, None, T]) -> T:
    """Runs the steps of long work, one in each turn of the event loop."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        await asyncio.sleep(0)


async def until_gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, for as long as the client is there. Its body must have been read. Raises `ClientGone`."""
    running = asyncio.ensure_future(work)
    leaving: Leaving | None = http.scope.get(LEAVING)
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        running.cancel()

    watching = None
    if leaving is None:
        watching = asyncio.ensure_future(until_gone(http.receive))
        watching.add_done_callback(lambda _: leave())
    elif leaving.happened:
        leave()
    else:
        leaving.tell.add(leave)
    try:
        return await running
    except asyncio.CancelledError:
        if gone:
            raise ClientGone from None
        raise
    finally:
        if leaving is not None:
            leaving.tell.discard(leave)
        if watching is not None:
            watching.cancel()
