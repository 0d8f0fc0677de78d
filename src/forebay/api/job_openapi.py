"""What `/docs` tells of jobs: parameters, bodies and every status of each operation, as OpenAPI."""

from __future__ import annotations

from typing import Any

from forebay.api.job_options import CACHE_WORDS, MOST_SECONDS
from forebay.api.openapi import CONTENT_ENCODING, EVENT_STREAM, OF_ANSWER, OF_CACHE, Schema, operation, ref
from forebay.api.parameters import MAX_INTEGER
from forebay.api.prefer import MOST_WAIT_S
from forebay.api.problems import STATUSES
from forebay.jobs.record import MOVES, TERMINAL

JOBS = "/v1/models/{model}/jobs"
JOB = "/v1/jobs/{id}"

Described = tuple[str, str, str, dict[int | str, Schema], Schema]
"""Method, path, summary, responses, and the rest of the operation."""

_REASONS = {
    400: "The request is malformed or does not fit the model; `detail` says how.",
    401: "An API key is needed, or the one given is not valid.",
    404: "There is no such model, version or job.",
    408: "The body did not arrive in time.",
    409: "The job was canceled, so that it has no result; or it has not failed, so that it cannot be replayed.",
    410: "The job is finished, and was kept for as long as its `retention_s` said.",
    413: "The body is larger than `server.max_body_bytes`.",
    415: "The Content-Encoding is not one of gzip and deflate.",
    422: "The Idempotency-Key was used for another request.",
    429: "The key's quota is used up; try again after `Retry-After` seconds.",
    500: "The model failed on this job, or the server did.",
    501: "The request asks for something that is not supported.",
    503: "Refused now: queue full, store not reached, not ready, draining. Try again after `Retry-After` seconds.",
    504: "The job did not start within its `ttl_s`, or ran longer than its `timeout_s`; `stage` says which. Or "
    "`cache_miss`: only what is cached was asked for, and it is not.",
}
_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_STATES = [*MOVES, *sorted(TERMINAL)]


def _object(required: list[str], properties: Schema, **members: Any) -> Schema:
    return {"type": "object", "required": required, "properties": properties, **members}


def _option(schema: Schema, description: str) -> Schema:
    return {"anyOf": [schema, {"type": "null"}], "description": description}


_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS}
_OPTIONS: Schema = {
    "ttl_s": _option(_SECONDS, "Latest start, in seconds from its acceptance; then the job expires. Default: never."),
    "timeout_s": _option(_SECONDS, "Longest run of one attempt, in seconds. Default: an hour."),
    "retention_s": _option(
        {"type": "number", "exclusiveMinimum": 0},
        "How long the job is kept once it is finished, in seconds, up to `jobs.max_retention_s`.",
    ),
    "priority": _option(
        {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER},
        "1 is the highest, 0 the default; goes before that of `parameters`.",
    ),
    "cache": _option(
        {"type": "string", "enum": list(CACHE_WORDS)},
        "use: its answer may come from the cache; refresh: it runs, and its answer is kept; off: neither. Goes before "
        "Cache-Control.",
    ),
    "webhook": _option({"type": "string", "format": "uri"}, "http or https URL that is told when the job has ended."),
    "metadata": _option({"type": "object"}, "Kept with the job and shown in it; at most 16 KiB of JSON."),
}
_ASKED: Schema = {
    "id": _TEXT,
    "parameters": ref("Parameters"),
    "outputs": {"type": "array", "items": ref("RequestedOutput")},
}
_ERROR = _object(["code", "message"], {"code": _TEXT, "message": _TEXT, "stage": _TEXT}, additionalProperties=False)
_URLS = _object(
    ["self", "result", "events", "ws", "cancel"],
    {name: {"type": "string", "format": "uri-reference"} for name in ("self", "result", "events", "ws", "cancel")},
    additionalProperties=False,
)


def schemas() -> Schema:
    """The component schemas of jobs, by name."""
    request = {"inputs": {"type": "array", "items": ref("RequestInput")}}
    one_row = {"input": {"type": "object", "description": "Input name to one row's value."}}
    either = [ref("JobRequest"), ref("OneRowJobRequest")]
    return {
        "JobRequest": _object(["inputs"], {**request, **_ASKED, **_OPTIONS}, additionalProperties=False),
        "OneRowJobRequest": _object(["input"], {**one_row, **_ASKED, **_OPTIONS}, additionalProperties=False),
        "JobBatchRequest": _object(
            ["jobs"], {"jobs": {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"oneOf": either}}}
        ),
        "Job": _job(),
        "JobBatch": _object(["jobs"], {"jobs": {"type": "array", "items": {"oneOf": [ref("Job"), ref("Problem")]}}}),
        "JobPage": _object(
            ["jobs", "cursor"],
            {
                "jobs": {"type": "array", "items": ref("Job")},
                "cursor": {"type": ["string", "null"], "description": "For the next page; null: there is none."},
            },
            additionalProperties=False,
        ),
        "Problem": _object(
            ["type", "title", "status", "detail", "code"],
            {
                "type": {"type": "string", "format": "uri-reference"},
                "title": {"type": "string", "description": "The status in words."},
                "status": {"type": "integer"},
                "detail": {"type": "string", "description": "What is wrong, in words."},
                "code": {"type": "string", "enum": sorted(STATUSES)},
                "stage": {"type": "string", "enum": ["queued", "executing", "waiting"]},
                "instance": {"type": "string", "format": "uri-reference"},
            },
            description="RFC 9457.",
        ),
    }


def _job() -> Schema:
    properties: Schema = {
        "id": {"type": "string", "format": "uuid", "description": "UUIDv7."},
        "model": _TEXT,
        "version": {"type": "string", "description": "Where one was asked for."},
        "status": {"type": "string", "enum": _STATES},
        "created_at": _TIME,
        "started_at": {"type": ["string", "null"], "format": "date-time", "description": "Of the last attempt."},
        "finished_at": {"type": ["string", "null"], "format": "date-time"},
        "attempt": {**_COUNT, "description": "Of runs begun; 0: it has not run."},
        "max_attempts": _COUNT,
        "cached": {"type": "boolean", "description": "Whether the output came from the cache."},
        "progress": {"type": "number", "description": "0 to 1, where the model tells."},
        "output": {"description": "The answer of inference, where that is JSON; else it stands only at `urls.result`."},
        "error": _ERROR,
        "metrics": {"type": "object", "description": "How it was batched and how long it took."},
        "metadata": {"type": "object"},
        "replay_of": {"type": "string", "format": "uuid", "description": "The failed job that this one repeats."},
        "urls": _URLS,
    }
    optional = {"version", "progress", "output", "error", "metadata", "replay_of"}
    return _object([name for name in properties if name not in optional], properties, additionalProperties=False)


def _header(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


WAIT = _header("Prefer", _TEXT, f"`wait=N`: answer when the job has ended, or after N seconds (at most {MOST_WAIT_S}).")
RESPOND_ASYNC = _header(
    "Prefer",
    _TEXT,
    "`respond-async`: answer at once with 202 and a job, whose options (`ttl_s`, `timeout_s`, `retention_s`, `cache`, "
    "`webhook`, `metadata`) then stand in `parameters`; with `wait=N` only if it is not done within N seconds.",
)
KEY = _header("Idempotency-Key", _TEXT, "Sent again with the same request, it is answered with the same job.")
_LENGTH = _header(
    "Inference-Header-Content-Length", {"type": "integer", "minimum": 0}, "Bytes of JSON before the binary tensors."
)


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _response(schema: Schema, description: str, *headers: str, media_type: str = "application/json") -> Schema:
    described: Schema = {"description": description, "content": {media_type: {"schema": schema}}}
    if headers:
        described["headers"] = {name: {"schema": _HEADERS[name]} for name in headers}
    return described


_HEADERS: Schema = {
    "Location": {"type": "string", "format": "uri-reference"},
    "Content-Location": {"type": "string", "format": "uri-reference"},
    "Retry-After": {"type": "integer"},
    "Preference-Applied": _TEXT,
    "Idempotent-Replayed": {"type": "string", "const": "true"},
    "WWW-Authenticate": _TEXT,
    "Accept-Encoding": _TEXT,
    "Inference-Header-Content-Length": {"type": "integer"},
    **{name: header["schema"] for name, header in OF_ANSWER.items()},
}
_ERROR_HEADERS = {401: "WWW-Authenticate", 415: "Accept-Encoding", 429: "Retry-After", 503: "Retry-After"}


def problems(*statuses: int) -> dict[int | str, Schema]:
    """Errors in the form of RFC 9457, those of every operation under /v1 among them."""
    return {
        status: _response(
            ref("Problem"),
            _REASONS[status],
            *([_ERROR_HEADERS[status]] if status in _ERROR_HEADERS else []),
            media_type="application/problem+json",
        )
        for status in (*statuses, 401, 429, 500, 501, 503)
    }


def _accepted() -> Schema:
    headers = ("Location", "Retry-After", "Preference-Applied", "Idempotent-Replayed")
    return _response(ref("Job"), "Accepted: look at `Location`, and again after `Retry-After` seconds.", *headers)


def _result() -> Schema:
    outputs = {"oneOf": [ref("InferenceResponse"), ref("OneRowResponse")]}
    headers = ("Preference-Applied", "Inference-Header-Content-Length")
    described = _response(outputs, "The answer of inference, in the form that was asked for.", *headers)
    described["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return described


def _body(schema: Schema, *, binary: bool) -> Schema:
    content: Schema = {"application/json": {"schema": schema}}
    if binary:
        raw = {"schema": {"type": "string", "format": "binary"}}
        content |= {"application/octet-stream": raw, "image/*": raw}
    return {"required": True, "content": content}


def operations() -> dict[str, Described]:
    """Every operation by the name of its function."""
    job = _response(ref("Job"), "The job as it is now.", "Retry-After", "Preference-Applied")
    done = _response(ref("Job"), "Done already.", "Location", "Preference-Applied", "Idempotent-Replayed", *OF_ANSWER)
    refused = problems(400, 404, 408, 410, 413, 415, 422)
    looked = problems(400, 404, 410)
    either: Schema = {"oneOf": [ref("JobRequest"), ref("OneRowJobRequest")]}
    one = operation(
        "model", parameters=[WAIT, KEY, _LENGTH, CONTENT_ENCODING, *OF_CACHE], requestBody=_body(either, binary=True)
    )
    batch = operation(
        "model",
        parameters=[KEY, CONTENT_ENCODING, *OF_CACHE],
        requestBody=_body(ref("JobBatchRequest"), binary=False),
    )
    many = _response(ref("JobBatch"), "For each a job or a problem, in their order.", "Idempotent-Replayed")
    page = _response(ref("JobPage"), "Jobs of the caller, the newest first. A page may be short and yet not the last.")
    listed = operation(
        parameters=[
            _query("model", _TEXT, "Only of this model."),
            _query("status", {"type": "string", "enum": _STATES}, "Only those that are so now."),
            _query("cursor", _TEXT, "As the page before gave it."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 200}, "Most jobs of the page; default 50."),
        ]
    )
    seen, waited = operation("id"), operation("id", parameters=[WAIT])
    replayed = {200: done, 202: _accepted(), **problems(400, 404, 409, 410)}
    results = {200: _result(), 202: _accepted(), **problems(400, 404, 409, 410, 413, 504)}
    return {
        "submit": ("POST", JOBS, "Submit a job", {200: done, 202: _accepted(), **refused, **problems(504)}, one),
        "submit_batch": ("POST", f"{JOBS}/batch", "Submit many jobs", {202: many, **refused}, batch),
        "list": ("GET", "/v1/jobs", "List jobs", {200: page, **problems(400)}, listed),
        "show": ("GET", JOB, "Look at a job, or wait for it", {200: job, **looked}, waited),
        "result": ("GET", f"{JOB}/result", "The output of a job", results, waited),
        "cancel": ("POST", f"{JOB}/cancel", "Cancel a job", {200: job, **looked}, seen),
        "replay": ("POST", f"{JOB}/replay", "Run a failed job again, as a new one", replayed, seen),
        "delete": ("DELETE", JOB, "Forget a job", {204: {"description": "Forgotten."}, **looked}, seen),
    }


def events() -> Described:
    """The stream of a job's events."""
    stream = {
        "description": "Server-sent events: `status`, `progress` and `output`, each an object with the job's `id`, its "
        "`sequence` (also the event's id), `attempt`, and what there is to tell; then `done`, with the whole job.",
        "content": EVENT_STREAM,
    }
    ended: Schema = {"description": "The job has ended, and the client has had every event."}
    last: Schema = {"in": "header", "name": "Last-Event-ID", "required": False, "schema": _COUNT}
    given = [last, {**last, "in": "query", "name": "last_event_id"}]
    responses = {200: stream, 204: ended, **problems(400, 404, 410)}
    return "GET", f"{JOB}/events", "Follow a job", responses, operation("id", parameters=given)


def as_job_responses() -> dict[int | str, Schema]:
    """What inference with `Prefer: respond-async` may be answered with, besides its own answers."""
    plain: dict[int | str, Schema] = {
        status: _response(ref("Error"), _REASONS[status].replace("`detail`", "`error`")) for status in (409, 410, 422)
    }
    return {202: _accepted(), **plain}


def as_job_headers() -> Schema:
    """What its own answer has beside its own headers, where a job was done in time."""
    names = ("Content-Location", "Preference-Applied", "Idempotent-Replayed")
    return {name: {"schema": _HEADERS[name]} for name in names}
