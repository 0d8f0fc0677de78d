"""Logging, traces and shared memory of Triton's protocol as ASGI endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest

from forebay.api import openapi, server_settings
from forebay.api.endpoint import log
from forebay.api.general import parse_json
from forebay.api.infer_routes import read_body
from forebay.api.inference import Inference
from forebay.api.problems import Answer
from forebay.api.routing import Operation, add, document
from forebay.core.errors import RequestError
from forebay.telemetry.logs import log_switch

_BODY_STATUSES = (400, 401, 408, 413, 415, 429, 500, 501)
SHARED_MEMORY_PATHS = (
    ("GET", "/v2/{kind}sharedmemory/status"),
    ("GET", "/v2/{kind}sharedmemory/region/{region}/status"),
    ("POST", "/v2/{kind}sharedmemory/region/{region}/register"),
    ("POST", "/v2/{kind}sharedmemory/unregister"),
    ("POST", "/v2/{kind}sharedmemory/region/{region}/unregister"),
)


def add_settings(app: FastAPI, inference: Inference) -> None:
    """Adds `/v2/logging`, `/v2/trace/setting`, and the refusal of shared memory."""

    def guarded(build: Callable[[HttpRequest], Awaitable[Any]]) -> Operation:
        async def operate(http: HttpRequest) -> Answer:
            inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
            if "model" in http.path_params:
                inference.find(http.path_params["model"])
            return document(await build(http))

        return operate

    async def wanted(http: HttpRequest) -> Any:
        body = await read_body(http, inference)
        return parse_json(body) if body.strip() else {}

    async def get_log(http: HttpRequest) -> Any:
        return server_settings.log_settings(log_switch())

    async def post_log(http: HttpRequest) -> Any:
        changed = server_settings.turn_log(log_switch(), await wanted(http))
        log.warning("what is logged was changed over HTTP: %s", changed)
        return changed

    async def get_trace(http: HttpRequest) -> Any:
        return server_settings.TraceSettings()

    async def post_trace(http: HttpRequest) -> Any:
        return server_settings.turn_trace(await wanted(http))

    async def no_shared_memory(http: HttpRequest) -> Any:
        raise RequestError(
            "shared memory is not supported; send tensors in the body, as JSON or in binary form", code="unsupported"
        )

    def both(path: str, schema: str, what: str, get: Any, post: Any, *names: str) -> None:
        missing = (404,) if names else ()
        described = openapi.responses(openapi.ref(schema), 401, *missing, 429, 500, 501)
        add(app, path, guarded(get), described, what, "settings", extra=openapi.operation(*names))
        described = openapi.responses(openapi.ref(schema), *_BODY_STATUSES, *missing)
        body = openapi.json_body(openapi.ref(f"{schema}Change"))
        extra = openapi.operation(*names, parameters=[openapi.CONTENT_ENCODING], requestBody=body)
        add(app, path, guarded(post), described, f"Change: {what}", "settings", method="POST", extra=extra)

    both("/v2/logging", "LogSettings", "What is logged", get_log, post_log)
    both("/v2/trace/setting", "TraceSettings", "What is traced", get_trace, post_trace)
    path = "/v2/models/{model}/trace/setting"
    both(path, "TraceSettings", "What is traced of a model", get_trace, post_trace, "model")

    for kind in ("system", "cuda"):
        for method, template in SHARED_MEMORY_PATHS:
            path = template.replace("{kind}", kind)
            names = ("region",) if "{region}" in path else ()
            described = openapi.errors(401, 429, 500, 501)
            extra = openapi.operation(*names)
            summary = "Shared memory, which is not supported"
            add(app, path, guarded(no_shared_memory), described, summary, "settings", method=method, extra=extra)
