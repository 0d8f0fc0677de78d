"""HTTP answers about jobs: accepted, as it is now, its result, its error. No I/O in here."""

from __future__ import annotations

from typing import NamedTuple

from forebay.api.cache_control import told
from forebay.api.encode import JSON_HEADERS, HeaderPairs
from forebay.api.idempotency import REPLAYED
from forebay.api.job_documents import encoded_job, job_path
from forebay.api.problems import STATUSES, Answer, problem
from forebay.core.caching import CacheNote
from forebay.core.errors import RequestError
from forebay.jobs.record import TERMINAL, JobError, JobRecord

RETRY_AFTER = (b"retry-after", b"1")
"""When to look again after a job that is not done. Who does not want to poll says `Prefer: wait`."""
CANCELED_STATUS = 409
"""There is no result, and there will be none."""


class Accepted(NamedTuple):
    """A job that was submitted. `replayed`: by an earlier request with the same Idempotency-Key."""

    record: JobRecord
    replayed: bool = False


def accepted(job: Accepted, base: str = "", more: HeaderPairs = ()) -> Answer:
    """The answer to a submission: 202, or 200 where the job is done. `more`: further headers."""
    record = job.record
    headers = [*JSON_HEADERS, (b"location", job_path(record.spec.id, base).encode()), *more, *from_cache(job)]
    if job.replayed:
        headers.append(REPLAYED)
    if record.state not in TERMINAL:
        headers.append(RETRY_AFTER)
    return Answer(200 if record.state in TERMINAL else 202, headers, encoded_job(record, base))


def from_cache(job: Accepted) -> HeaderPairs:
    """What the cache did, as headers, where the job's answer came from there. Not of a job of an earlier request, whose
    answer has grown older meanwhile."""
    metrics = job.record.metrics or {}
    outcome = metrics.get("cached")
    if job.replayed or outcome not in ("exact", "semantic"):
        return ()
    return told(CacheNote(outcome, metrics.get("entry", ""), metrics.get("age_s", 0.0), metrics.get("score")))


def shown(record: JobRecord, base: str = "", more: HeaderPairs = ()) -> Answer:
    """The job as it is now."""
    headers = [*JSON_HEADERS, *more]
    if record.state not in TERMINAL:
        headers.append(RETRY_AFTER)
    return Answer(200, headers, encoded_job(record, base))


def result(record: JobRecord, base: str = "", more: HeaderPairs = ()) -> Answer:
    """The output as the model's endpoint would have answered it; 202 with the job before its end.

    The error of a job that has none is in the form of `/infer`.
    """
    if record.state not in TERMINAL:
        return accepted(Accepted(record), base, more)
    if record.output is None:
        refused = failure(record)
        return refused._replace(headers=(*refused.headers, *more))
    headers = [(b"content-type", record.output.content_type.encode()), *more]
    if record.output.header_length:
        headers.append((b"inference-header-content-length", record.output.header_length.encode()))
    return Answer(200, headers, record.output.body)


def failure(record: JobRecord) -> Answer:
    """The error of a job that ended without an output."""
    error = record.error or JobError("internal", f"the job is {record.state}, and does not say why")
    members = {"stage": error.stage} if error.stage else {}
    answer = problem(error.code, error.message, **members)
    if record.state == "canceled":
        return answer._replace(status=CANCELED_STATUS)
    return answer if STATUSES.get(error.code, 500) != 499 else answer._replace(status=500)


def unknown(id: str) -> RequestError:
    """There is no such job, or it is somebody else's."""
    return RequestError(f"there is no job {id}", code="job_not_found")


def gone(id: str) -> RequestError:
    """There was such a job."""
    return RequestError(f"job {id} is finished, and was kept for as long as its retention_s said", code="job_gone")
