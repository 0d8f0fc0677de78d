"""Errors as HTTP: the only place where a `ForebayError` becomes a status, headers and a body."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from forebay.api.encode import JSON_HEADERS, HeaderPairs
from forebay.core.errors import AdmissionError, DeadlineExceeded, DependencyError, ForebayError
from forebay.telemetry.logs import News, fields

log = logging.getLogger("forebay.api")

STATUSES: dict[str, int] = {
    "invalid_request": 400,
    "config_error": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "not_found": 404,
    "job_not_found": 404,
    "cache_entry_not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "job_not_failed": 409,
    "job_gone": 410,
    "payload_too_large": 413,
    "target_too_long": 414,
    "unsupported_encoding": 415,
    "idempotency_key_reused": 422,
    "over_quota": 429,
    "head_too_large": 431,
    "request_canceled": 499,
    "model_error": 500,
    "output_mismatch": 500,
    "out_of_memory": 500,
    "instance_crashed": 500,
    "model_load_error": 500,
    "memory_limit": 507,
    "internal": 500,
    "unsupported": 501,
    "queue_full": 503,
    "deadline_unreachable": 503,
    "model_not_ready": 503,
    "draining": 503,
    "broker_unavailable": 503,
    "store_unavailable": 503,
    "deadline_exceeded": 504,
    "cache_miss": 504,
}
"""Error code to HTTP status. 499 is for logs only: that client has left."""

INTERNAL_MESSAGE = "the server failed on this request; its log says why"


PROBLEM_HEADERS: HeaderPairs = ((b"content-type", b"application/problem+json"),)
"""Of errors in the form of RFC 9457."""

CLOSE = (b"connection", b"close")
_CODINGS = (b"accept-encoding", b"gzip, deflate")


_UNTOLD = News()
"""What clients are not told."""


class Answer(NamedTuple):
    """An HTTP answer: status, header pairs (lower-case names, without content-length) and body."""

    status: int
    headers: HeaderPairs
    body: bytes


def problem(code: str, message: str, **members: Any) -> Answer:
    """An error answer of a code in `STATUSES`; `members` stand beside `error` and `code` in its JSON."""
    body = msgspec.json.encode({"error": message, "code": code, **members})
    return Answer(STATUSES.get(code, 500), JSON_HEADERS, body)


def problem_of(error: BaseException) -> Answer:
    """The answer to an error. What is no `ForebayError` is internal: its text stays on this side, as does what is wrong
    with the store or the broker, which is logged instead."""
    if not isinstance(error, ForebayError):
        return problem("internal", INTERNAL_MESSAGE)
    if isinstance(error, DeadlineExceeded):
        return problem(error.code, error.message, stage=error.stage)
    if isinstance(error, DependencyError) and not error.public and _UNTOLD.is_new(error.message):
        log.warning("requests are answered 503: %s", error.message, extra=fields(code=error.code))
    answer = problem(error.code, error.public_message)
    if isinstance(error, AdmissionError | DependencyError):
        return answer._replace(headers=(*answer.headers, *_retry_headers(error)))
    if error.code == "unsupported_encoding":
        return answer._replace(headers=(*answer.headers, _CODINGS))
    return closing(answer) if error.code in ("payload_too_large", "body_timeout") else answer


def detailed(answer: Answer, instance: str = "") -> Answer:
    """An error answer in the form of RFC 9457, which all under /v1 has. `instance`: the path of what it is about.

    `code` stands in it as in the other form; `title` is the status in words.
    """
    found = msgspec.json.decode(answer.body)
    document = {
        "type": "about:blank",
        "title": HTTPStatus(answer.status).phrase,
        "status": answer.status,
        "detail": found.pop("error"),
        **({"instance": instance} if instance else {}),
        **found,
    }
    others = [pair for pair in answer.headers if pair[0] != b"content-type"]
    return Answer(answer.status, (*PROBLEM_HEADERS, *others), msgspec.json.encode(document))


def detailed_of(error: BaseException) -> Answer:
    """The answer to an error, in the form of RFC 9457."""
    return detailed(problem_of(error))


def closing(answer: Answer) -> Answer:
    """The answer, closing its connection: the rest of the body is not read, so nothing else can follow on it."""
    return answer._replace(headers=(*answer.headers, CLOSE))


def _retry_headers(error: AdmissionError | DependencyError) -> HeaderPairs:
    retry_after = (b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s)))
    if error.code == "unauthorized":
        return ((b"www-authenticate", b'Bearer realm="forebay"'),)
    return (retry_after,)
