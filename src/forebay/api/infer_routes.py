"""Inference as ASGI endpoints: the same steps as in the express lane, for every request that the lane declines."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from forebay.api import openapi
from forebay.api.inference import LEAVING, Endpoint, Inference, Leaving
from forebay.api.problems import Answer
from forebay.api.routing import MODEL_PATHS, ClientGone, Operation, add
from forebay.core.clock import Clock
from forebay.core.errors import RequestError
from forebay.core.request import Request


def add_inference(app: FastAPI, inference: Inference, clock: Clock) -> Operation:
    """Adds the operations, and returns one that serves them all."""

    async def infer(http: HttpRequest) -> Answer:
        arrived = clock()
        headers = dict(http.scope["headers"])
        inference.gate.enter(headers.get(b"authorization"))
        endpoint = inference.find(http.path_params["model"], http.path_params.get("version"))
        coding = headers.get(b"transfer-encoding", b"chunked")
        if coding.lower() != b"chunked":
            raise RequestError("no Transfer-Encoding is supported but chunked", code="unsupported")
        length = headers.get(b"content-length", b"")
        inference.admit(endpoint, headers.get(b"content-encoding"), int(length) if length.isdigit() else None)
        # A version that is unloaded meanwhile stays open for those that it has let in.
        endpoint.arriving += 1
        try:
            body = await read_body(http, inference)
            request, done = await _submit(
                endpoint, body, arrived, headers, http, inference.server.decode_off_loop_bytes
            )
        finally:
            endpoint.arriving -= 1
        return await _answer(endpoint, request, done, http)

    described = openapi.inference_responses()
    summary = "Run the model on some rows"
    for path, names in zip(MODEL_PATHS, (("model",), ("model", "version")), strict=True):
        extra = openapi.inference_operation(*names)
        added = add(app, path + "/infer", infer, described, summary, "inference", method="POST", extra=extra)
    return added


async def read_body(http: HttpRequest, inference: Inference) -> bytes:
    """The whole body, refused as soon as it is known to be too large, or too slow."""
    if LEAVING in http.scope:
        return await _pieces(http.receive, inference)
    limit_s = inference.server.body_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await _pieces(http.receive, inference)
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {limit_s:g} s", code="body_timeout") from None


async def _pieces(receive: Receive, inference: Inference) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        if piece:
            size_bytes += len(piece)
            inference.check_length(size_bytes)
            pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


Done = asyncio.Future[Request | None]
"""The request once it is answered; None where the client has left."""


async def _submit(
    endpoint: Endpoint,
    body: bytes,
    arrived: float,
    headers: Mapping[bytes, bytes],
    http: HttpRequest,
    decode_off_loop_bytes: int,
) -> tuple[Request, Done]:
    """Decodes and submits."""
    done: Done = asyncio.get_running_loop().create_future()

    def on_done(request: Request) -> None:
        if not done.done():
            done.set_result(request)

    given = (body, arrived, on_done, headers.get(b"content-type"), headers.get(b"inference-header-content-length"))
    if len(body) > decode_off_loop_bytes:
        request = await _between_others(endpoint.read_in_steps(*given))
    else:
        request = endpoint.read(*given)
    leaving: Leaving | None = http.scope.get(LEAVING)
    if leaving is not None and leaving.happened:
        raise ClientGone
    endpoint.engine.submit(request)
    return request, done


async def _answer(endpoint: Endpoint, request: Request, done: Done, http: HttpRequest) -> Answer:
    """Waits and encodes. A client that leaves meanwhile cancels its request."""

    def gone() -> None:
        if not done.done():
            done.set_result(None)

    leaving: Leaving | None = http.scope.get(LEAVING)
    watching = None
    if leaving is not None:
        leaving.tell.add(gone)
    else:
        watching = asyncio.ensure_future(_until_gone(http.receive))
        watching.add_done_callback(lambda _: gone())
    answered = None
    try:
        answered = await done
    finally:
        if leaving is not None:
            leaving.tell.discard(gone)
        if watching is not None:
            watching.cancel()
        if answered is None:
            endpoint.engine.cancel(request)
    if answered is None:
        raise ClientGone
    return endpoint.answer(answered)


async def _between_others(steps: Generator[None, None, Request]) -> Request:
    """Runs the steps of a large decode, one in each turn of the event loop."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            request: Request = end.value
            return request
        await asyncio.sleep(0)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
