"""Metadata, configuration, statistics, the index of models, health and metrics as ASGI endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest

from forebay import __version__
from forebay.api import documents, openapi
from forebay.api.inference import Inference
from forebay.api.problems import Answer
from forebay.api.repository_routes import ModelControl, add_index
from forebay.api.routing import MODEL_PATHS, Operation, add, document
from forebay.core.errors import RequestError
from forebay.engine.client import EngineClient
from forebay.telemetry.logs import log_switch


def add_documents(app: FastAPI, inference: Inference, control: ModelControl | None) -> None:
    """Adds what tells of the server and its models. `control`: as for `create_app`."""

    def of_model(build: Callable[[EngineClient], Any]) -> Operation:
        async def operate(http: HttpRequest) -> Answer:
            inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
            engine = inference.find(http.path_params["model"], http.path_params.get("version")).engine
            return document(build(engine))

        return operate

    def of_server(build: Callable[[], Any]) -> Operation:
        async def operate(http: HttpRequest) -> Answer:
            inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
            return document(build())

        return operate

    def all_engines() -> list[EngineClient]:
        return [engine for model in inference.engines for engine in inference.versions(model)]

    def metadata(engine: EngineClient) -> documents.ModelMetadata:
        ready = [one.version for one in inference.versions(engine.name) if one.state == "ready"]
        return documents.model_metadata(engine, ready or None)

    def config(engine: EngineClient) -> documents.ModelConfig:
        policy = control.registry.policy(engine.name) if control is not None else None
        return documents.model_config(engine, policy)

    def server() -> documents.ServerMetadata:
        offered = documents.extensions(own_log=log_switch() is not None)
        return documents.ServerMetadata("forebay", __version__, offered)

    every = openapi.responses(openapi.ref("ServerMetadata"), 401, 429, 500)
    add(app, "/v2", of_server(server), every, "The server", "metadata", extra=openapi.operation())
    described = openapi.responses(openapi.ref("StatisticsDocument"), 401, 429, 500)
    of_all = of_server(lambda: documents.statistics_document(all_engines()))
    summary = "Statistics of all models"
    add(app, "/v2/models/stats", of_all, described, summary, "metadata", extra=openapi.operation())

    add_index(app, inference, control)
    for base, names in zip(MODEL_PATHS, (("model",), ("model", "version")), strict=True):

        def statistics(engine: EngineClient, one: bool = "version" in names) -> documents.StatisticsDocument:
            return documents.statistics_document([engine] if one else inference.versions(engine.name))

        for suffix, build, schema, summary in (
            ("", metadata, "ModelMetadata", "Inputs and outputs of a model"),
            ("/config", config, "ModelConfig", "A model's configuration, in Triton's form"),
            ("/stats", statistics, "StatisticsDocument", "A model's statistics"),
        ):
            described = openapi.responses(openapi.ref(schema), 401, 404, 429, 500, 503)
            extra = openapi.operation(*names)
            add(app, base + suffix, of_model(build), described, summary, "metadata", extra=extra)


def add_health(
    app: FastAPI,
    inference: Inference,
    metrics_text: Callable[[], bytes],
    ready: Callable[[], Sequence[str]],
    *,
    of_process_only: bool = False,
) -> None:
    """Adds liveness, readiness and metrics; the arguments are those of `create_app`. `of_process_only`: nothing of its
    models, in no other form than our own."""

    async def live(http: HttpRequest) -> Answer:
        return document({"live": True})

    async def server_ready(http: HttpRequest) -> Answer:
        reasons = list(ready())
        return document(documents.Readiness(not reasons, reasons), 503 if reasons else 200)

    async def model_ready(http: HttpRequest) -> Answer:
        try:
            engine = inference.find(http.path_params["model"], http.path_params.get("version")).engine
        except RequestError as error:
            # It asks for no key, so it keeps the reason to itself: that may name files of this machine.
            raise RequestError(error.message.partition(": ")[0], code=error.code) from None
        readiness = documents.model_readiness(engine)
        return document(readiness, 200 if readiness.ready else 503)

    async def metrics(http: HttpRequest) -> Answer:
        return Answer(200, ((b"content-type", CONTENT_TYPE_LATEST.encode()),), metrics_text())

    described = openapi.responses(openapi.ref("Live"), 500)
    for path in ("/healthz", "/v2/health/live")[: 1 if of_process_only else 2]:
        add(app, path, live, described, "Whether the server runs", "health")
    described = {**openapi.responses(openapi.ref("Readiness"), 500), 503: openapi.not_ready()}
    for path in ("/readyz", "/v2/health/ready")[: 1 if of_process_only else 2]:
        add(app, path, server_ready, described, "Whether the server takes requests", "health")
    described = {**openapi.responses(openapi.ref("ModelReadiness"), 404, 500), 503: openapi.not_ready("ModelReadiness")}
    for base, names in zip(MODEL_PATHS, (("model",), ("model", "version")), strict=True) if not of_process_only else ():
        extra = openapi.operation(*names, secured=False)
        add(app, base + "/ready", model_ready, described, "Whether a model takes requests", "health", extra=extra)
    described = {200: {"description": "Prometheus exposition.", "content": {"text/plain": {}}}}
    add(app, "/metrics", metrics, described, "Metrics for Prometheus", "health")
