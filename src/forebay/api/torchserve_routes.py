"""TorchServe's `/ping` and `/predictions/{model}`, for callers that cannot change yet (`server.torchserve_api`).

A prediction is the one-row form of inference in other clothes: the body is rewritten, the same operation runs (keys,
quota, limits, deadlines, errors), and its answer is rewritten.
Source: https://github.com/pytorch/serve/blob/master/docs/inference_api.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.types import Message

from forebay.api import openapi
from forebay.api.encode import JSON_HEADERS
from forebay.api.general import parse_json
from forebay.api.infer_routes import awake, read_body
from forebay.api.inference import Inference
from forebay.api.problems import Answer, problem_of
from forebay.api.routing import PlainOperation, add, document
from forebay.core.errors import RequestError
from forebay.models.signature import Signature

PATHS = ("/predictions/{model}", "/predictions/{model}/{version}")

TYPES = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    413: "RequestEntityTooLargeException",
    503: "ServiceUnavailableException",
}
OTHER_TYPE = "InternalServerException"
"""TorchServe's `type` of an error, by status, and of any other."""
_BODY: dict[str, Any] = {"application/json": {"schema": {}}, "*/*": {"schema": {"type": "string", "format": "binary"}}}


def add_torchserve(
    app: FastAPI, inference: Inference, infer: PlainOperation, ready: Callable[[], Sequence[str]]
) -> None:
    """Adds the operations. infer: the operation behind `/infer`; ready: the reasons why requests are not welcome."""

    async def ping(http: HttpRequest) -> Answer:
        return document({"status": "Unhealthy"}, 500) if list(ready()) else document({"status": "Healthy"})

    async def predict(http: HttpRequest) -> Answer:
        # Its signature is needed to read the body.
        await awake(http, dict(http.scope["headers"]), inference)
        answer = await infer(as_inference(http, inference))
        assert isinstance(answer, Answer)  # inference does not stream
        return prediction(answer)

    described: dict[int | str, Any] = {200: {"description": "Healthy."}, 500: {"description": "Not ready."}}
    summary = "Whether the server takes requests, as TorchServe says it"
    add(app, "/ping", ping, described, summary, "torchserve", refuse=_refused)
    described = {200: {"description": "The row's outputs by name.", **_of_json({"type": "object"})}, **_errors()}
    summary = "Run the model on one row, as TorchServe takes it"
    for path, names in zip(PATHS, (("model",), ("model", "version")), strict=True):
        for method in ("POST", "PUT"):
            extra = openapi.operation(*names, requestBody={"required": True, "content": _BODY})
            add(app, path, predict, described, summary, "torchserve", method=method, extra=extra, refuse=_refused)


def _refused(error: BaseException) -> Answer:
    return prediction(problem_of(error))


def is_torchserve(path: str) -> bool:
    """Whether a path lies where errors have TorchServe's form."""
    return path == "/ping" or path.startswith("/predictions/")


def _errors() -> dict[int | str, Any]:
    members = {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}}
    schema = {"type": "object", "required": list(members), "properties": members}
    return {
        status: {"description": f"An error; its type is {TYPES.get(status, OTHER_TYPE)}.", **_of_json(schema)}
        for status in openapi.OF_REQUESTS
    }


def _of_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def as_inference(http: HttpRequest, inference: Inference) -> HttpRequest:
    """The request as one of inference. Its body is read only when that operation asks for it, so after the key's check.

    Reading raises `RequestError` for a body that cannot be a row.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        signature = inference.find(http.path_params["model"], http.path_params.get("version")).engine.signature
    except RequestError:
        return http  # inference says so itself, after the key's check
    raw = kind != "application/json" and [spec.datatype for spec in signature.inputs] == ["BYTES"]
    # The body is read here without its coding, and the answer is rewritten before it could have one.
    dropped = (
        b"content-type",
        b"inference-header-content-length",
        b"content-encoding",
        b"accept-encoding",
        b"prefer",
    )
    kept = [header for header in http.scope["headers"] if header[0] not in dropped]
    # A raw image is what inference calls bytes that are one row by themselves.
    sent_as = b"image/*" if raw else b"application/json"
    read = False

    async def receive() -> Message:
        nonlocal read
        if read:
            return await http.receive()
        read = True
        if kind == "multipart/form-data":
            raise RequestError(
                "forms are not supported here; send bytes or JSON as the body itself", code="unsupported"
            )
        body = await read_body(http, inference)
        if not raw:
            body = b'{"input":%b}' % row_of(body, signature)
        return {"type": "http.request", "body": body, "more_body": False}

    return HttpRequest({**http.scope, "headers": [*kept, (b"content-type", sent_as)]}, receive)


def row_of(body: bytes, signature: Signature) -> bytes:
    """A prediction's JSON as that of one row: an object names the inputs, all else is the value of the only one.

    Raises `RequestError` for what is not JSON, and for several inputs without names.
    """
    found = parse_json(body)  # the text itself goes on, but only if it is one JSON value and nothing more
    if isinstance(found, dict):
        return body
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise RequestError(f"the model has several inputs, so the body must be an object that names them: {names}")
    return b"{%b:%b}" % (msgspec.json.encode(signature.inputs[0].name), body)


def prediction(answer: Answer) -> Answer:
    """An answer of inference as TorchServe's: the outputs by name alone, or `code`, `type` and `message`."""
    if answer.status == 200:
        # Cut, not decoded: its values stay as they were written, NaN included. A name before it has its quotes escaped.
        start = answer.body.index(b'"output":') + len(b'"output":')
        return answer._replace(body=bytes(answer.body[start:-1]))
    if not answer.body:
        return answer
    problem = msgspec.json.decode(answer.body)
    message = {
        "code": answer.status,
        "type": TYPES.get(answer.status, OTHER_TYPE),
        "message": problem["error"],
    }
    kept = [header for header in answer.headers if header not in JSON_HEADERS]
    return Answer(answer.status, (*JSON_HEADERS, *kept), msgspec.json.encode(message))
