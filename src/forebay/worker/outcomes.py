"""What an error means for its job: another attempt, giving it back, or its end. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, ForebayError
from forebay.jobs.record import JobError

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
RETRIED = frozenset({"instance_crashed", "out_of_memory"})
"""Failures that another instance, or another moment, may not have."""


class Outcome(NamedTuple):
    """See `jobs.store.Finish`."""

    kind: Literal["failed", "retry", "release"]
    error: JobError | None
    delay_s: float = 0.0


def outcome_of(error: ForebayError, attempt: int, *, served: bool) -> Outcome:
    """What becomes of a job whose run, or whose admission, ended with this error in its attempt number `attempt`.

    `served`: whether its model runs here at all. Where only the version is missing that it asked for, other workers may
    have it, or nobody: then it fails once its attempts are used up.
    """
    told = JobError(error.code, error.public_message, error.stage if isinstance(error, DeadlineExceeded) else "")
    if isinstance(error, AdmissionError):
        return Outcome("release", None, error.retry_after_s)
    if error.code == "model_not_found" and not served:
        return Outcome("release", None)
    if error.code == "model_not_found" or (isinstance(error, ExecutionError) and error.code in RETRIED):
        return Outcome("retry", told, retry_delay_s(attempt))
    return Outcome("failed", told)


def unsupported(envelope: int, known: int, attempt: int) -> Outcome:
    """A job written by another release, which a newer worker may still run."""
    message = f"the job's envelope has version {envelope}, this worker knows {known}; run workers of the same release"
    return Outcome("retry", JobError("unsupported", message), retry_delay_s(attempt))


def retry_delay_s(attempt: int) -> float:
    """Seconds before the next attempt: twice as long each time."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** (attempt - 1))
