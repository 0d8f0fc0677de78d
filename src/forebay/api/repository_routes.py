"""The model repository over HTTP: index, load, unload.

Source: Triton's model repository extension (docs/protocol/extension_model_repository.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest

from forebay.api import documents, openapi
from forebay.api.auth import Gate, from_here
from forebay.api.elements import show
from forebay.api.general import parse_json
from forebay.api.infer_routes import read_body
from forebay.api.inference import Inference
from forebay.api.load_config import asked_of
from forebay.api.problems import Answer
from forebay.api.routing import Operation, add, document
from forebay.core.errors import RequestError
from forebay.repository.registry import Registry
from forebay.repository.states import Asked


@dataclass(frozen=True, slots=True)
class ModelControl:
    """The repository, and why models may not be loaded and unloaded over HTTP; `refusal` is empty where they may."""

    registry: Registry
    refusal: str = ""

    def check(self, http: HttpRequest, gate: Gate) -> None:
        """Raises `AdmissionError` (unauthorized, over_quota) or `RequestError` (forbidden)."""
        gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
        if self.refusal:
            raise RequestError(self.refusal, code="forbidden")
        if not from_here(http.headers, keys=gate.keyed):
            raise RequestError("a web page of another site may not load or unload models", code="forbidden")


def add_index(app: FastAPI, inference: Inference, control: ModelControl | None) -> None:
    """Adds the index. Without a repository it lists what is served."""

    async def index(http: HttpRequest) -> Answer:
        inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
        wanted = _object(await read_body(http, inference))
        ready_only = wanted.get("ready") or False
        if not isinstance(ready_only, bool):
            raise RequestError(f"ready must be true or false, not {show(ready_only)}")
        if control is None:
            engines = [engine for model in inference.engines for engine in inference.versions(model)]
            return document(documents.repository_index(engines, ready_only))
        known = [documents.IndexEntry(*one) for one in await control.registry.index()]
        return document([one for one in known if one.state == "READY" or not ready_only])

    entries = {"type": "array", "items": openapi.ref("IndexEntry")}
    described = openapi.responses(entries, 400, 401, 408, 413, 415, 429, 500)
    body = _body({"ready": {"type": "boolean", "description": "Only models that are ready."}})
    summary = "All models and their states"
    add(app, "/v2/repository/index", index, described, summary, "repository", method="POST", extra=body)


def add_no_control(app: FastAPI, inference: Inference, refusal: str) -> None:
    """Adds load and unload where nothing is loaded: they answer 501 with this."""

    async def refuse(http: HttpRequest) -> Answer:
        inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
        raise RequestError(refusal, code="unsupported")

    described = openapi.responses({"type": "object"}, 401, 429, 501)
    for suffix, summary in (("/load", "Models are not loaded here"), ("/unload", "Models are not unloaded here")):
        path = "/v2/repository/models/{model}" + suffix
        extra = openapi.operation("model")
        add(app, path, refuse, described, summary, "repository", method="POST", extra=extra)


def add_control(app: FastAPI, inference: Inference, control: ModelControl) -> None:
    """Adds load and unload."""

    async def load(http: HttpRequest) -> Answer:
        control.check(http, inference.gate)
        model = http.path_params["model"]
        await control.registry.load(model, _asked(await _parameters(http, inference), model, inference))
        return document({})

    async def unload(http: HttpRequest) -> Answer:
        control.check(http, inference.gate)
        for name, value in (await _parameters(http, inference)).items():
            # No model here depends on another, so there is nothing more to unload.
            if name != "unload_dependents" or not isinstance(value, bool):
                raise RequestError(f"unload takes the boolean parameter unload_dependents, not {show(name)}")
        await control.registry.unload(http.path_params["model"])
        return document({})

    described = openapi.responses({"type": "object"}, 400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 503, 507)
    path = "/v2/repository/models/{model}"
    operations: tuple[tuple[str, Operation, str, Any], ...] = (
        ("/load", load, "Load a model, or bring it up to date", {"config": {"type": "string"}}),
        ("/unload", unload, "Stop serving a model", {"unload_dependents": {"type": "boolean"}}),
    )
    for suffix, operate, summary, taken in operations:
        extra = _body({"parameters": {"type": "object", "properties": taken}}, "model")
        add(app, path + suffix, operate, described, summary, "repository", method="POST", extra=extra)


def _body(properties: dict[str, Any], *path_names: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    body = {"required": False, "content": {"application/json": {"schema": schema}}}
    return openapi.operation(*path_names, parameters=[openapi.CONTENT_ENCODING], requestBody=body)


def _object(body: bytes) -> dict[str, Any]:
    found = parse_json(body) if body.strip() else {}
    if not isinstance(found, dict):
        raise RequestError("the body must be a JSON object, or empty")
    return found


async def _parameters(http: HttpRequest, inference: Inference) -> dict[str, Any]:
    parameters = _object(await read_body(http, inference)).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError("parameters must be a JSON object")
    return parameters


def _asked(parameters: dict[str, Any], model: str, inference: Inference) -> Asked:
    asked = Asked()
    for name, value in parameters.items():
        if name.startswith("file:"):
            raise RequestError(
                "model files cannot be sent with a load request; put them into the repository", code="unsupported"
            )
        if name != "config" or not isinstance(value, str):
            raise RequestError(f"load takes the string parameter config, not {show(name)}")
        served = inference.engines.get(model)
        asked = asked_of(value, model, documents.model_config(served) if served is not None else None)
    return asked
