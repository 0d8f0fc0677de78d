"""What `/docs` tells: the bodies and every status of each operation, as OpenAPI.

The documents that Forebay builds itself are described by their own structs; the inference bodies by hand, since JSON
Schema can say more about them than a struct can.
"""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.api import documents, server_settings
from forebay.api.problems import STATUSES
from forebay.core.tensors import NUMPY_TYPES

Schema = dict[str, Any]

_STRUCTS = (
    documents.ServerMetadata,
    documents.ModelMetadata,
    documents.ModelConfig,
    documents.StatisticsDocument,
    documents.IndexEntry,
    documents.Readiness,
    documents.ModelReadiness,
)
_REASONS = {
    400: "The request is malformed or does not fit the model; `error` says how.",
    401: "An API key is needed, or the one given is not valid.",
    403: "Models may not be loaded or unloaded from here; `server.model_control` says who may.",
    404: "There is no such model or version.",
    408: "The body did not arrive in time.",
    413: "The body is larger than `server.max_body_bytes`, as it came or without its content coding, or the request "
    "alone is more than `max_queue_rows` or `max_queue_bytes` let wait.",
    415: "The Content-Encoding is not one of gzip and deflate.",
    429: "The key's quota is used up; try again after `Retry-After` seconds.",
    500: "The model failed on this request, or the server did.",
    501: "The request asks for something that is not supported.",
    503: "Refused now: queue full, deadline out of reach, not ready, draining. Try again after `Retry-After` seconds.",
    504: "The deadline passed; `stage` says where. Or `cache_miss`: only what is cached was asked for, and it is not.",
    507: "A model is larger than `server.memory_limit_bytes`.",
}
OF_REQUESTS = tuple(status for status in _REASONS if status not in {403, 507})
"""The others answer only requests to load and unload."""

_DATATYPE: Schema = {"type": "string", "enum": list(NUMPY_TYPES)}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_DATA: Schema = {"type": "array", "description": "Elements in row-major order, flat or nested as `shape`."}

_TEXT: Schema = {"type": "string"}
_LOG: Schema = {
    "log_file": {"type": "string", "description": "Always empty: the log goes to standard error."},
    "log_info": {"type": "boolean"},
    "log_warning": {"type": "boolean"},
    "log_error": {"type": "boolean"},
    "log_verbose_level": {
        "type": "integer",
        "minimum": 0,
        "maximum": server_settings.MAX_VERBOSE_LEVEL,
        "description": "Above 0: debug lines too.",
    },
    "log_format": {"type": "string", "enum": ["default", "ISO8601"], "description": "ISO8601: JSON lines."},
}
_TRACE: Schema = {
    "trace_level": {"type": "array", "items": _TEXT},
    **dict.fromkeys(("trace_rate", "trace_count", "log_frequency", "trace_file"), _TEXT),
}


def _object(required: list[str], properties: Schema, **members: Any) -> Schema:
    return {"type": "object", "required": required, "properties": properties, **members}


def ref(name: str) -> Schema:
    """A reference to a component schema."""
    return {"$ref": f"#/components/schemas/{name}"}


_BODIES: dict[str, Schema] = {
    "Error": _object(
        ["error", "code"],
        {
            "error": {"type": "string", "description": "What is wrong, in words."},
            "code": {"type": "string", "enum": sorted(STATUSES)},
            "stage": {"type": "string", "enum": ["queued", "executing", "waiting"]},
        },
    ),
    "RequestInput": _object(
        ["name", "shape", "datatype"],
        {
            "name": {"type": "string"},
            "shape": _SHAPE,
            "datatype": _DATATYPE,
            "data": _DATA,
            "parameters": _object([], {"binary_data_size": {"type": "integer", "minimum": 0}}),
        },
    ),
    "RequestedOutput": _object(
        ["name"],
        {
            "name": {"type": "string"},
            "parameters": _object(
                [],
                {
                    "binary_data": {
                        "type": "boolean",
                        "description": "Answer it in binary form; goes before `binary_data_output`.",
                    },
                    "classification": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "Answer its so many highest values, as `value:index[:label]`; 0: as it is.",
                    },
                },
            ),
        },
    ),
    "Parameters": _object(
        [],
        {
            "priority": {"type": "integer", "minimum": 0, "description": "1 is the highest; 0 is the default."},
            "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds; 0: the model's default."},
            "explain": {"type": "boolean", "description": "Tell in the answer how the request was batched."},
            "binary_data_output": {"type": "boolean", "description": "Answer every output in binary form."},
        },
        additionalProperties=_SCALAR,
    ),
    "InferenceRequest": _object(
        ["inputs"],
        {
            "id": {"type": "string"},
            "parameters": ref("Parameters"),
            "inputs": {"type": "array", "items": ref("RequestInput")},
            "outputs": {"type": "array", "items": ref("RequestedOutput")},
        },
    ),
    "OneRowRequest": _object(
        ["input"],
        {
            "id": {"type": "string"},
            "parameters": ref("Parameters"),
            "input": {"type": "object", "description": "Input name to one row's value, nested as the row's shape."},
            "outputs": {"type": "array", "items": ref("RequestedOutput")},
        },
    ),
    "Explanation": _object(
        ["batch_rows", "queue_ms", "dispatch_reason", "padding_waste"],
        {
            "batch_rows": {"type": "integer"},
            "queue_ms": {"type": "number"},
            "dispatch_reason": {"type": "string"},
            "padding_waste": {"type": "number", "description": "Share of the batch that was padding, 0 to 1."},
        },
    ),
    "ResponseOutput": _object(
        ["name", "shape", "datatype"],
        {
            "name": {"type": "string"},
            "shape": _SHAPE,
            "datatype": _DATATYPE,
            "data": {"type": "array"},
            "parameters": _object([], {"binary_data_size": {"type": "integer"}}),
        },
    ),
    "InferenceResponse": _object(
        ["model_name", "model_version", "outputs"],
        {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": ref("Explanation"),
            "outputs": {"type": "array", "items": ref("ResponseOutput")},
        },
    ),
    "OneRowResponse": _object(
        ["model_name", "model_version", "output"],
        {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": ref("Explanation"),
            "output": {"type": "object", "description": "Output name to the row's value, nested as the row's shape."},
        },
    ),
    "GenerateRequest": _object(
        [],
        {
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "description": "Parameters as of inference; members that are named like inputs are inputs.",
            },
        },
        description="Each input of the model as a member: one row's value, a plain one or nested as the row's shape. "
        "Other members are parameters.",
        additionalProperties=True,
    ),
    "GenerateResponse": _object(
        ["model_name", "model_version"],
        {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": ref("Explanation"),
        },
        description="Each output as a member: one element as a plain value, others nested as the row's shape.",
        additionalProperties=True,
    ),
    "LogSettings": _object(
        ["log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"], _LOG
    ),
    "LogSettingsChange": _object(
        [], {name: {"anyOf": [part, {"type": "null"}]} for name, part in _LOG.items()}, additionalProperties=False
    ),
    "TraceSettings": _object(["trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file"], _TRACE),
    "TraceSettingsChange": _object(
        [],
        {name: {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]} for name in _TRACE},
        additionalProperties=False,
    ),
    "Live": _object(["live"], {"live": {"type": "boolean"}}),
}


def components() -> Schema:
    """Every component schema by name, and the security scheme."""
    _, structs = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key made by `forebay keys new NAME`."}
    return {"schemas": {**structs, **_BODIES}, "securitySchemes": {"key": scheme}}


def responses(schema: Schema, *statuses: int, description: str = "The document.") -> dict[int | str, Schema]:
    """200 with a JSON body of `schema`, and these error statuses."""
    return {200: _json(schema, description), **{status: _error(status) for status in statuses}}


def errors(*statuses: int) -> dict[int | str, Schema]:
    """An operation that always refuses, with one of these."""
    return {status: _error(status) for status in statuses}


def json_body(schema: Schema) -> Schema:
    """A JSON request body that may be left away."""
    return {"required": False, "content": {"application/json": {"schema": schema}}}


def not_ready(schema: str = "Readiness") -> Schema:
    """503 of the ready endpoints: the reasons."""
    return _json(ref(schema), "Not ready; `reasons` says why.")


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(status: int) -> Schema:
    described = _json(ref("Error"), _REASONS[status])
    if status in (429, 503):
        described["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    if status == 415:
        described["headers"] = {"Accept-Encoding": {"schema": {"type": "string"}}}
    if status == 401:
        described["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return described


def inference_responses() -> dict[int | str, Schema]:
    """Every answer of the inference operation."""
    described = responses(
        {"oneOf": [ref("InferenceResponse"), ref("OneRowResponse")]},
        *OF_REQUESTS,
        description="The outputs: the one-row form where the request had it.",
    )
    described[200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    described[200]["headers"] = {
        "Inference-Header-Content-Length": {
            "description": "Bytes of JSON before the binary outputs, where there are any.",
            "schema": {"type": "integer"},
        },
        "Content-Encoding": {
            "description": "Of a large answer, where the request's Accept-Encoding asks for it.",
            "schema": {"type": "string", "enum": ["gzip", "deflate"]},
        },
        "Vary": {"description": "Of a large answer.", "schema": {"type": "string"}},
        **OF_ANSWER,
    }
    return described


def generate_operation(*path_names: str) -> Schema:
    """The parameters and body of both operations of the generate extension."""
    body = {"required": True, "content": {"application/json": {"schema": ref("GenerateRequest")}}}
    return operation(*path_names, parameters=OF_CACHE, requestBody=body)


def generate_responses() -> dict[int | str, Schema]:
    """Every answer of `generate`."""
    described = responses(ref("GenerateResponse"), *OF_REQUESTS, description="The outputs.")
    described[200]["headers"] = {**OF_ANSWER}
    return described


EVENT_STREAM: Schema = {"text/event-stream": {"schema": {}}}
"""Any: OpenAPI 3.1 has no words for single events, and tools read a schema here as that of the text or of an event."""


def stream_responses() -> dict[int | str, Schema]:
    """Every answer of `generate_stream`."""
    ok = {
        "description": "Server-sent events. Each `data` is a GenerateResponse with a piece of the outputs, or an "
        "Error, which is then the last. Events named `progress` have a member `progress` from 0 to 1. A request that "
        "fails before its first event is answered with the status of its error.",
        "content": EVENT_STREAM,
    }
    return {200: ok, **{status: _error(status) for status in OF_REQUESTS}}


def operation(*path_names: str, secured: bool = True, **members: Any) -> Schema:
    """The parts of an operation that FastAPI cannot see in a function that takes the plain request."""
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path_names]
    extra: Schema = {"parameters": [*parameters, *members.pop("parameters", [])], **members}
    if secured:
        extra["security"] = [{"key": []}, {}]
    return extra


OF_CACHE: list[Schema] = [
    {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
    for name, description in (
        (
            "Cache-Control",
            "Of a model that has a cache. no-cache: run it, and keep the answer; no-store: neither look nor keep; "
            "only-if-cached: run nothing, which is 504 `cache_miss` where nothing is kept; max-age=N: no older answer.",
        ),
        ("Cache-Tag", "Tags, split by commas, by which the answer can be forgotten, if it is computed and kept."),
    )
]
"""What a caller can say of the cache."""
OF_ANSWER: Schema = {
    "X-Cache": {
        "description": "What the cache did, where it was asked.",
        "schema": {"type": "string", "enum": ["exact", "coalesced", "semantic", "miss"]},
    },
    "X-Cache-Entry": {"description": "Of a kept answer: its id.", "schema": {"type": "string"}},
    "X-Cache-Score": {"description": "Of a near text: its cosine.", "schema": {"type": "number"}},
    "Age": {"description": "Of a kept answer: seconds.", "schema": {"type": "integer"}},
    "X-Cascade": {
        "description": "Who of a cascade answered, where the model has a student.",
        "schema": {"type": "string", "enum": ["student", "teacher", "both"]},
    },
    "X-Model-Variant": {
        "description": "Which form of the model answered, where it has variants.",
        "schema": {"type": "string"},
    },
}
"""What cache, cascade and variants say of an answer."""

CONTENT_ENCODING: Schema = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
}
_ACCEPT_ENCODING: Schema = {
    "name": "Accept-Encoding",
    "in": "header",
    "required": False,
    "description": "How a large answer may be compressed (RFC 9110, 12.5.3): gzip, deflate, with weights.",
    "schema": {"type": "string"},
}


def inference_operation(*path_names: str) -> Schema:
    """The parameters and body of the inference operation."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "Bytes of JSON before the binary tensors, without the content coding. 0: the body is one raw "
        "row of the only input, and every output is answered in binary form.",
        "schema": {"type": "integer", "minimum": 0},
    }
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [ref("InferenceRequest"), ref("OneRowRequest")]}},
            "application/octet-stream": binary,
            "image/*": binary,
        },
    }
    parameters = [header, CONTENT_ENCODING, _ACCEPT_ENCODING, *OF_CACHE]
    return operation(*path_names, parameters=parameters, requestBody=body)
