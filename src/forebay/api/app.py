"""The FastAPI app: the protocol's endpoints, health and metrics. The rules are in the modules that it calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from forebay import __version__
from forebay.api import job_openapi, openapi
from forebay.api.cache_routes import add_cache
from forebay.api.document_routes import add_documents, add_health
from forebay.api.endpoint import Endpoint
from forebay.api.generate_routes import add_generate
from forebay.api.infer_routes import add_inference
from forebay.api.inference import Inference
from forebay.api.job_events import add_job_events
from forebay.api.job_routes import add_jobs, as_job
from forebay.api.job_socket import add_job_sockets
from forebay.api.job_streams import Streams
from forebay.api.jobs import Jobs
from forebay.api.problems import Answer, detailed, problem, problem_of
from forebay.api.repository_routes import ModelControl, add_control, add_no_control
from forebay.api.routing import Operation, plain, response_of
from forebay.api.setting_routes import add_settings
from forebay.api.torchserve_routes import add_torchserve, is_torchserve, prediction
from forebay.core.clock import Clock

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ForebayApp(FastAPI):
    """FastAPI with a short way: a POST to the exact path of inference or generation needs no routing, and goes past
    FastAPI's own middleware, which costs more than the whole request. Not where the operator has added middleware."""

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
    control: ModelControl | str | None = None,
    jobs: Jobs | None = None,
    streams: Streams | None = None,
) -> FastAPI:
    """The app over `inference`.

    metrics_text: the Prometheus exposition. ready: the reasons why requests are not welcome yet; empty when they are.
    clock: monotonic seconds, the engines' own. control: the model repository; text says why load and unload are refused
    here; without either there are no such operations.
    jobs: without them their operations answer 501. streams: of their events.
    """
    app = ForebayApp(
        title="Forebay",
        version=__version__,
        summary="Open Inference Protocol v2 with Triton's extensions",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_errors(app, torchserve=inference.server.torchserve_api)
    infer = add_inference(app, inference, clock, as_job(inference, jobs) if jobs is not None else None)
    quick = {b"/infer": infer, **add_generate(app, inference, clock)}
    submit = add_jobs(app, inference, jobs)
    if streams is not None:
        add_job_events(app, streams)
        add_job_sockets(app, streams)
    short_way: dict[bytes, ASGIApp] = {}
    route = _router(short_way, quick, submit)
    for path, endpoint in inference.by_path.items():
        route(path, endpoint)
    inference.on_route.append(route)
    app.short_way = short_way
    if inference.server.torchserve_api:
        add_torchserve(app, inference, infer, ready)
    repository = control if isinstance(control, ModelControl) else None
    add_documents(app, inference, repository)
    if repository is not None:
        add_control(app, inference, repository)
    elif isinstance(control, str):
        add_no_control(app, inference, control)
    add_settings(app, inference)
    add_cache(app, inference)
    add_health(app, inference, metrics_text, ready)
    _add_schemas(app)
    return app


def _router(
    short_way: dict[bytes, ASGIApp], quick: Mapping[bytes, Operation], submit: Operation
) -> Callable[[bytes, Endpoint | None], None]:
    """What keeps the short way up to date; `quick`: operations by the end of their paths, `submit`: that of jobs."""

    def route(path: bytes, endpoint: Endpoint | None) -> None:
        base = path.removesuffix(b"/infer")
        targets = {base + ending: operate for ending, operate in quick.items()}
        if b"/versions/" not in path:
            targets[b"/v1%b/jobs" % base.removeprefix(b"/v2")] = submit
        for target, operate in targets.items():
            if endpoint is None:
                short_way.pop(target, None)
            elif b"/versions/" in path:
                short_way[target] = plain(operate, model=endpoint.engine.name, version=endpoint.engine.version)
            else:
                short_way[target] = plain(operate, model=endpoint.engine.name)

    return route


def _add_errors(app: FastAPI, *, torchserve: bool) -> None:
    async def unrouted(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        message = f"{request.method} is not allowed here" if error.status_code == 405 else "there is nothing here"
        answer = problem(codes.get(error.status_code, "invalid_request"), message)
        response = response_of(_as_its_neighbours(answer, request.scope, torchserve))
        if error.status_code == 405:
            response.raw_headers.append((b"allow", ", ".join(_allowed(app, request.scope)).encode()))
        return response

    async def unforeseen(request: HttpRequest, error: Exception) -> Response:
        return response_of(_as_its_neighbours(problem_of(error), request.scope, torchserve))

    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(Exception, unforeseen)


def _as_its_neighbours(answer: Answer, scope: Scope, torchserve: bool) -> Answer:
    """An error of a path that leads nowhere, in the form of those beside it."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if torchserve and is_torchserve(path):
        return prediction(answer)
    return detailed(answer) if path.startswith("/v1/") else answer


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of every operation on a path; Starlette knows only those of the first route that fits."""
    found: set[str] = set()
    for route in app.router.routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


def _add_schemas(app: FastAPI) -> None:
    """Completes FastAPI's OpenAPI document with the components that the operations refer to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {})
        for part, entries in openapi.components().items():
            components.setdefault(part, {}).update(entries)
        components["schemas"].update(job_openapi.schemas())
        return document

    app.openapi = complete  # type: ignore[method-assign]
