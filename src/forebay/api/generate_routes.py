"""The generate extension as ASGI endpoints: one JSON answer, or server-sent events.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from forebay.api import openapi
from forebay.api.encode import JSON_HEADERS
from forebay.api.event_stream import EventStream
from forebay.api.infer_routes import TENANT, Waiting, as_wanted, ask_of, awake, let_in, read_body
from forebay.api.inference import Inference
from forebay.api.problems import Answer
from forebay.api.routing import MODEL_PATHS, Operation, add
from forebay.core.clock import Clock
from forebay.core.errors import RequestError


def add_generate(app: FastAPI, inference: Inference, clock: Clock) -> Mapping[bytes, Operation]:
    """Adds the operations, and returns them by the end of their paths."""

    async def generate(http: HttpRequest) -> Answer:
        arrived = clock()
        waiting = Waiting(http)
        headers = dict(http.scope["headers"])
        await awake(http, headers, inference)
        with let_in(http, headers, inference) as endpoint:
            body = await read_body(http, inference)
            request = endpoint.generate.read(body, arrived, waiting.end)
            request.cache, request.tenant = ask_of(http, endpoint), http.scope[TENANT]
            waiting.submit(endpoint.engine, request)
        answered = await waiting.answer()
        if answered.error is not None:
            return endpoint.refuse(answered.error)
        answer = Answer(200, endpoint.telling(answered, JSON_HEADERS), endpoint.generate.whole(answered))
        return await as_wanted(answer, http, inference)

    async def generate_stream(http: HttpRequest) -> Answer | Response:
        arrived = clock()
        if http.scope.get("http_version") == "1.0":
            raise RequestError("generate_stream needs HTTP/1.1", code="unsupported")
        headers = dict(http.scope["headers"])
        await awake(http, headers, inference)
        with let_in(http, headers, inference) as endpoint:
            body = await read_body(http, inference)
            stream = EventStream(endpoint, http)
            request = endpoint.generate.read(body, arrived, stream.on_done)
            # Pieces are never kept; whoever wants only what is kept has to be told.
            request.cache, request.tenant = ask_of(http, endpoint), http.scope[TENANT]
            stream.submit(request)
        return await stream.begin()

    added: dict[bytes, Operation] = {}
    for ending, operate, described, summary in (
        ("/generate", generate, openapi.generate_responses(), "Run the model on one row"),
        ("/generate_stream", generate_stream, openapi.stream_responses(), "Run the model on one row, answer in pieces"),
    ):
        for path, names in zip(MODEL_PATHS, (("model",), ("model", "version")), strict=True):
            extra = openapi.generate_operation(*names)
            name = path + ending
            added[ending.encode()] = add(
                app, name, operate, described, summary, "generation", method="POST", extra=extra
            )
    return added
