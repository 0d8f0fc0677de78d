"""Errors as a client sees them: rebuilt from what a server answered, or its own.

Every one is a `ForebayError` with `code`, `message`, `retryable`, and `status` where a server answered. A server of
another make sends no `code`: then the status stands for it. A code that this version does not know is kept as it came,
on the class that its status stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from forebay.core.errors import (
    AdmissionError,
    CacheMiss,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
    Stage,
)

RETRYABLE = frozenset(
    {"over_quota", "queue_full", "deadline_unreachable", "model_not_ready", "draining", "deadline_exceeded"}
    | set(DependencyError.codes())
)
"""Codes after which the same request may succeed later, unchanged."""

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
"""The same for answers whose code is missing or unknown."""

CODES_OF_STATUSES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "model_not_found",
    408: "body_timeout",
    413: "payload_too_large",
    429: "over_quota",
    501: "unsupported",
    504: "deadline_exceeded",
}
"""What a status means where its answer has no code; any other has `http_STATUS`."""

_LONGEST_MESSAGE = 2000


class UnreachableError(ForebayError):
    """No answer came: the connection was refused, or it broke. `retryable` unless the request cannot be sent at all."""

    code = "server_unreachable"
    retryable = True


class InvalidAnswerError(ForebayError):
    """The server answered with something that is not this protocol."""

    code = "invalid_answer"


def error_of(
    status: int, document: Mapping[str, Any] | None, text: str = "", retry_after_s: float | None = None
) -> ForebayError:
    """The error of an answer other than 200.

    document: its JSON object, None where it is none; `text`, its text, is the message then. retry_after_s: seconds of
    its Retry-After, where it has one.
    """
    members = document or {}
    message = members.get("error") or members.get("message") or members.get("detail") or text.strip()
    message = str(message)[:_LONGEST_MESSAGE] or f"the server answered {status}"
    code = members.get("code")
    if not isinstance(code, str) or not code:
        code = CODES_OF_STATUSES.get(status, f"http_{status}")
    error = _built(code, status, message, members.get("stage"), retry_after_s)
    known = code in _KNOWN
    error.code = code
    error.retryable = code in RETRYABLE if known else status in RETRYABLE_STATUSES
    error.status = status
    return error


_KINDS = (RequestError, AdmissionError, ExecutionError, DependencyError, CacheMiss)
_KNOWN = frozenset(code for kind in (*_KINDS, DeadlineExceeded) for code in kind.codes()) | {"internal"}


def _built(code: str, status: int, message: str, stage: Any, retry_after_s: float | None) -> ForebayError:
    if code == "internal":
        return ForebayError(message)
    kind = next((k for k in _KINDS if code in k.codes()), None)
    if kind is CacheMiss:
        return CacheMiss(message)
    if code in DeadlineExceeded.codes() or (kind is None and status == 504):
        return DeadlineExceeded(message, stage=stage if stage in get_args(Stage) else "waiting")
    if kind is DependencyError:
        return DependencyError(message, retry_after_s=0.0 if retry_after_s is None else retry_after_s)
    if kind is AdmissionError or (kind is None and status in (401, 403, 429, 503)):
        return AdmissionError(message, retry_after_s=0.0 if retry_after_s is None else retry_after_s)
    if kind is RequestError or (kind is None and 400 <= status < 500):
        return RequestError(message)
    if kind is ExecutionError or (kind is None and status == 500):
        return ExecutionError(message)
    return ForebayError(message)
