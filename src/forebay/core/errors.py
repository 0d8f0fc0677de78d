"""Every error that Forebay answers with.

ForebayError
  RequestError       invalid_request, forbidden, model_not_found, body_timeout, payload_too_large,
                     unsupported_encoding, unsupported, request_canceled, job_not_found, job_gone,
                     job_not_failed, cache_entry_not_found, idempotency_key_reused
  AdmissionError     unauthorized, over_quota, queue_full, deadline_unreachable, model_not_ready, draining
  DeadlineExceeded   deadline_exceeded, with the stage in which the deadline passed
  CacheMiss          cache_miss: only what is cached was asked for, and it is not
  ExecutionError     model_error, output_mismatch, out_of_memory, instance_crashed
  DependencyError    broker_unavailable, store_unavailable
  SetupError         config_error, model_load_error, memory_limit (at start-up, and where a model is loaded later),
                     slo_unreachable (only where a machine is measured)

`code` is stable and part of the wire contract. The mapping to HTTP lives only in `api`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

Stage = Literal["queued", "executing", "waiting"]


class ForebayError(Exception):
    """Base of all errors. `retryable` says whether the same request may succeed later, unchanged."""

    code: str = "internal"
    retryable: bool = False
    status: int | None = None
    """Where a client got the error from a server: the answer's HTTP status."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            if code not in self.codes():
                raise ValueError(f"{type(self).__name__} has no code {code!r}; it has {', '.join(self.codes())}")
            self.code = code

    CODES: ClassVar[tuple[str, ...]] = ()

    @property
    def public_message(self) -> str:
        """What clients are told."""
        return self.message

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        """The codes that this class may carry."""
        return cls.CODES or (cls.code,)


class RequestError(ForebayError):
    """The caller's request cannot be served as it stands."""

    code = "invalid_request"
    CODES = (
        "invalid_request",
        "forbidden",
        "model_not_found",
        "body_timeout",
        "payload_too_large",
        "unsupported_encoding",
        "unsupported",
        "request_canceled",
        "job_not_found",
        "job_gone",
        "job_not_failed",
        "cache_entry_not_found",
        "idempotency_key_reused",
    )


class AdmissionError(ForebayError):
    """Refused at the door; nothing was run. `retry_after_s` (seconds) is a hint for the next try."""

    code = "queue_full"
    retryable = True
    CODES = ("unauthorized", "over_quota", "queue_full", "deadline_unreachable", "model_not_ready", "draining")

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ForebayError):  # noqa: N818 - the field's standard name
    """The deadline passed after admission, in `stage`."""

    code = "deadline_exceeded"
    retryable = True

    def __init__(self, message: str, *, stage: Stage) -> None:
        super().__init__(message)
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        """Without it there would be no copies, since `stage` has a name."""
        return partial(type(self), stage=self.stage), self.args, self.__dict__


class CacheMiss(ForebayError):  # noqa: N818 - the field's own word
    """Only an answer from the cache was asked for, and there is none. Nothing was run."""

    code = "cache_miss"


class ExecutionError(ForebayError):
    """The model failed on this request."""

    code = "model_error"
    CODES = ("model_error", "output_mismatch", "out_of_memory", "instance_crashed")


class DependencyError(ForebayError):
    """The store of jobs or the broker cannot be reached, or refuses. Whether the call took effect is not known.

    Its message is for operators: it names hosts, users and what to mend. Clients are told it only where it is `public`.
    """

    code = "store_unavailable"
    retryable = True
    CODES = ("broker_unavailable", "store_unavailable")

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: float = 1.0, public: bool = False
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
        self.public = public

    @property
    def public_message(self) -> str:
        """What clients are told."""
        return self.message if self.public else _UNAVAILABLE[self.code]

    def anew(self) -> DependencyError:
        """The same, which nobody has raised: one that is raised by many, or again and again, would keep every frame
        that it came by."""
        return DependencyError(self.message, code=self.code, retry_after_s=self.retry_after_s, public=self.public)


_UNAVAILABLE = {
    "broker_unavailable": "the job queue cannot be reached; try again",
    "store_unavailable": "the server's store cannot be reached; try again",
}


class SetupError(ForebayError):
    """A model or its settings cannot be used. The message names file, key and mend.

    At start-up the process ends with an exit code other than 0; a load later fails, and what serves goes on.
    """

    code = "config_error"
    CODES = ("config_error", "model_load_error", "memory_limit", "slo_unreachable")
