"""The FastAPI app: the protocol's endpoints, health and metrics. The rules are in the modules that it calls.

Endpoints take the plain request and give a plain response, so that FastAPI adds documentation and routing only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from forebay import __version__
from forebay.api import documents, openapi
from forebay.api.encode import JSON_HEADERS
from forebay.api.general import parse_json
from forebay.api.inference import LEAVING, Endpoint, Inference, Leaving, log_unforeseen
from forebay.api.problems import Answer, problem, problem_of
from forebay.core.clock import Clock
from forebay.core.errors import ForebayError, RequestError
from forebay.core.request import Request
from forebay.engine.client import EngineClient

Operation = Callable[[HttpRequest], Awaitable[Answer]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_GONE = Answer(499, (), b"")
"""Nobody reads it."""

_INFER = "/v2/models/{model}/infer"
_MODEL_PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


class ClientGone(Exception):  # noqa: N818 - not an error of ours
    """The client closed its connection before it was answered."""


def _plain(operate: Operation, **path_params: str) -> ASGIApp:
    """An operation as an ASGI app; `path_params` where no route has found them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if path_params:
            scope["path_params"] = path_params
        answer = await operate(HttpRequest(scope, receive))
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    return app


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the answer: FastAPI documents it, and does nothing more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = _plain(self.endpoint)

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        operate: Operation = self.endpoint

        async def respond(request: HttpRequest) -> Response:
            return _respond(await operate(request))

        return respond


class ForebayApp(FastAPI):
    """FastAPI with a short way: a POST to the exact path of inference needs no routing, and goes past FastAPI's own
    middleware, which costs more than the whole request. Not where the operator has added middleware."""

    short_way: Mapping[bytes, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI has it."""
        if scope["type"] == "http" and scope["method"] == "POST" and not self.user_middleware:
            app = self.short_way.get(scope.get("raw_path") or b"")
            if app is not None:
                await app(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_app(
    inference: Inference,
    *,
    metrics_text: Callable[[], bytes],
    ready: Callable[[], Sequence[str]],
    clock: Clock = time.monotonic,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The app over `inference`.

    metrics_text: the Prometheus exposition. ready: the reasons why requests are not welcome yet; empty when they are.
    clock: monotonic seconds, the engines' own.
    """
    app = ForebayApp(
        title="Forebay",
        version=__version__,
        summary="Open Inference Protocol v2 with Triton's extensions",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_errors(app)
    infer = _add_inference(app, inference, clock)
    app.short_way = {
        path: _plain(infer, model=endpoint.engine.name, version=endpoint.engine.version)
        for path, endpoint in inference.by_path.items()
    }
    _add_documents(app, inference)
    _add_health(app, inference, metrics_text, ready)
    _add_schemas(app)
    return app


def _respond(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def _document(value: Any, status: int = 200) -> Answer:
    return Answer(status, JSON_HEADERS, msgspec.json.encode(value))


def _add(
    app: FastAPI,
    path: str,
    operate: Operation,
    described: Mapping[int | str, Any],
    summary: str,
    tag: str,
    *,
    method: str = "GET",
    extra: Mapping[str, Any] | None = None,
) -> Operation:
    """Adds one operation, and returns it: whatever its function raises has become an answer."""

    async def endpoint(request: HttpRequest) -> Answer:
        try:
            return await operate(request)
        except ClientGone:
            return _GONE
        except ForebayError as error:
            return problem_of(error)
        except Exception as error:
            log_unforeseen(error, request.path_params.get("model", ""))
            return problem_of(error)

    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        route_class_override=PlainRoute,
        response_model=None,
        response_class=Response,
        responses=dict(described),
        openapi_extra=dict(extra or {}),
        summary=summary,
        tags=[tag],
        operation_id=f"{method.lower()} {path}",
    )
    return endpoint


def _add_errors(app: FastAPI) -> None:
    async def unrouted(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        message = f"{request.method} is not allowed here" if error.status_code == 405 else "there is nothing here"
        response = _respond(problem(codes.get(error.status_code, "invalid_request"), message))
        response.raw_headers.extend((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
        return response

    async def unforeseen(request: HttpRequest, error: Exception) -> Response:
        return _respond(problem_of(error))

    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(Exception, unforeseen)


def _add_inference(app: FastAPI, inference: Inference, clock: Clock) -> Operation:
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
        body = await _read_body(http, inference)
        return await _run(endpoint, body, arrived, headers, http, inference.server.decode_off_loop_bytes)

    described = openapi.inference_responses()
    summary = "Run the model on some rows"
    for path, names in ((_INFER, ("model",)), (_MODEL_PATHS[1] + "/infer", ("model", "version"))):
        extra = openapi.inference_operation(*names)
        added = _add(app, path, infer, described, summary, "inference", method="POST", extra=extra)
    return added


async def _read_body(http: HttpRequest, inference: Inference) -> bytes:
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


async def _run(
    endpoint: Endpoint,
    body: bytes,
    arrived: float,
    headers: Mapping[bytes, bytes],
    http: HttpRequest,
    decode_off_loop_bytes: int,
) -> Answer:
    """Decodes, submits, waits and encodes. A client that leaves meanwhile cancels its request."""
    done: asyncio.Future[Request | None] = asyncio.get_running_loop().create_future()

    def on_done(request: Request | None = None) -> None:
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
    watching = None
    if leaving is not None:
        leaving.tell.add(on_done)
    else:
        watching = asyncio.ensure_future(_until_gone(http.receive))
        watching.add_done_callback(lambda _: on_done())
    answered = None
    try:
        answered = await done
    finally:
        if leaving is not None:
            leaving.tell.discard(on_done)
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


def _add_documents(app: FastAPI, inference: Inference) -> None:
    def of_model(build: Callable[[EngineClient], Any]) -> Operation:
        async def operate(http: HttpRequest) -> Answer:
            inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
            engine = inference.find(http.path_params["model"], http.path_params.get("version")).engine
            return _document(build(engine))

        return operate

    def of_server(build: Callable[[bytes], Any]) -> Operation:
        async def operate(http: HttpRequest) -> Answer:
            inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
            return _document(build(await _read_body(http, inference) if http.method == "POST" else b""))

        return operate

    def index(body: bytes) -> list[documents.IndexEntry]:
        wanted = parse_json(body) if body.strip() else {}
        ready_only = isinstance(wanted, dict) and wanted.get("ready") is True
        return documents.repository_index(inference.engines.values(), ready_only)

    server = documents.ServerMetadata("forebay", __version__)
    every = openapi.responses(openapi.ref("ServerMetadata"), 401, 429, 500)
    _add(app, "/v2", of_server(lambda _: server), every, "The server", "metadata", extra=openapi.operation())
    described = openapi.responses(openapi.ref("StatisticsDocument"), 401, 429, 500)
    statistics = of_server(lambda _: documents.statistics_document(inference.engines.values()))
    summary = "Statistics of all models"
    _add(app, "/v2/models/stats", statistics, described, summary, "metadata", extra=openapi.operation())
    described = openapi.responses({"type": "array", "items": openapi.ref("IndexEntry")}, 400, 401, 413, 429, 500)
    extra = openapi.operation()
    summary = "All models and their states"
    _add(app, "/v2/repository/index", of_server(index), described, summary, "metadata", method="POST", extra=extra)

    for base, names in zip(_MODEL_PATHS, (("model",), ("model", "version")), strict=True):
        for suffix, build, schema, summary in (
            ("", documents.model_metadata, "ModelMetadata", "Inputs and outputs of a model"),
            ("/config", documents.model_config, "ModelConfig", "A model's configuration, in Triton's form"),
            ("/stats", lambda e: documents.statistics_document([e]), "StatisticsDocument", "A model's statistics"),
        ):
            described = openapi.responses(openapi.ref(schema), 401, 404, 429, 500)
            extra = openapi.operation(*names)
            _add(app, base + suffix, of_model(build), described, summary, "metadata", extra=extra)


def _add_health(
    app: FastAPI, inference: Inference, metrics_text: Callable[[], bytes], ready: Callable[[], Sequence[str]]
) -> None:
    async def live(http: HttpRequest) -> Answer:
        return _document({"live": True})

    async def server_ready(http: HttpRequest) -> Answer:
        reasons = list(ready())
        return _document(documents.Readiness(not reasons, reasons), 503 if reasons else 200)

    async def model_ready(http: HttpRequest) -> Answer:
        engine = inference.find(http.path_params["model"], http.path_params.get("version")).engine
        readiness = documents.model_readiness(engine)
        return _document(readiness, 200 if readiness.ready else 503)

    async def metrics(http: HttpRequest) -> Answer:
        return Answer(200, ((b"content-type", CONTENT_TYPE_LATEST.encode()),), metrics_text())

    described = openapi.responses(openapi.ref("Live"), 500)
    for path in ("/healthz", "/v2/health/live"):
        _add(app, path, live, described, "Whether the server runs", "health")
    described = {**openapi.responses(openapi.ref("Readiness"), 500), 503: openapi.not_ready()}
    for path in ("/readyz", "/v2/health/ready"):
        _add(app, path, server_ready, described, "Whether the server takes requests", "health")
    described = {**openapi.responses(openapi.ref("Readiness"), 404, 500), 503: openapi.not_ready()}
    for base, names in zip(_MODEL_PATHS, (("model",), ("model", "version")), strict=True):
        extra = openapi.operation(*names, secured=False)
        _add(app, base + "/ready", model_ready, described, "Whether a model takes requests", "health", extra=extra)
    described = {200: {"description": "Prometheus exposition.", "content": {"text/plain": {}}}}
    _add(app, "/metrics", metrics, described, "Metrics for Prometheus", "health")


def _add_schemas(app: FastAPI) -> None:
    """Completes FastAPI's OpenAPI document with the components that the operations refer to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        document = generate()
        for part, entries in openapi.components().items():
            document.setdefault("components", {}).setdefault(part, {}).update(entries)
        return document

    app.openapi = complete  # type: ignore[method-assign]
