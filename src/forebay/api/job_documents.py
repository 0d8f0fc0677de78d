"""A job as its callers see it: one JSON document, the same in every answer and event.

`output` is the JSON of the answer as the model's encoder wrote it, embedded as it is; a binary answer stands only at
the job's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from forebay.jobs.record import JobError, JobRecord, JobSpec, Output, State

PATH = "/v1/jobs/"
_encode = msgspec.json.Encoder().encode


class JobUrls(msgspec.Struct):
    """Where a job's other documents are."""

    job: str = msgspec.field(name="self")
    result: str
    events: str
    ws: str
    cancel: str


class JobDocument(msgspec.Struct, kw_only=True):
    """A job. Times are RFC 3339 in UTC, with milliseconds; null: not yet, or never."""

    id: str
    model: str
    version: str | UnsetType = UNSET
    """Where one was asked for."""
    status: State
    created_at: str
    started_at: str | None = None
    """Of the last attempt."""
    finished_at: str | None = None
    attempt: int = 0
    max_attempts: int
    cached: bool = False
    progress: float | UnsetType = UNSET
    """0 to 1, where the model tells."""
    output: msgspec.Raw | UnsetType = UNSET
    error: JobError | UnsetType = UNSET
    metrics: dict[str, Any] = msgspec.field(default_factory=dict)
    """How it was batched and how long it took, once it has run."""
    metadata: dict[str, Any] | UnsetType = UNSET
    replay_of: str | UnsetType = UNSET
    """The failed job that this one repeats."""
    urls: JobUrls


def time_of(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def job_path(id: str, base: str = "") -> str:
    """The path of a job. `base`: what stands before all paths of this server, where it is mounted into another."""
    return f"{base}{PATH}{id}"


def new_job(spec: JobSpec, created_ms: int, base: str = "") -> JobDocument:
    """A job that was accepted just now."""
    path = job_path(spec.id, base)
    document = JobDocument(
        id=spec.id,
        model=spec.model,
        status="queued",
        created_at=time_of(created_ms),
        max_attempts=spec.max_attempts,
        urls=JobUrls(path, f"{path}/result", f"{path}/events", f"{path}/ws", f"{path}/cancel"),
    )
    if spec.version:
        document.version = spec.version
    if spec.metadata is not None:
        document.metadata = spec.metadata
    if spec.replay_of:
        document.replay_of = spec.replay_of
    return document


def job_document(record: JobRecord, base: str = "") -> JobDocument:
    """A job as its record has it."""
    document = new_job(record.spec, record.created_ms, base)
    document.status = record.state
    document.attempt = record.attempt
    if record.started_ms:
        document.started_at = time_of(record.started_ms)
    if record.finished_ms:
        document.finished_at = time_of(record.finished_ms)
    if record.progress:
        document.progress = record.progress
    if record.output is not None and is_json(record.output):
        document.output = msgspec.Raw(record.output.body)
    if record.error is not None:
        document.error = record.error
    if record.metrics:
        document.metrics = {name: value for name, value in record.metrics.items() if name != "cached"}
        document.cached = bool(record.metrics.get("cached"))
    return document


def is_json(output: Output) -> bool:
    """Whether an output is JSON as a whole, without binary tensors behind."""
    return not output.header_length and output.content_type == "application/json"


def encoded(document: JobDocument) -> bytes:
    """The document as JSON."""
    return _encode(document)


def page_of(documents: Sequence[bytes], cursor: str) -> bytes:
    """A page of the list, of encoded items; an empty cursor is null: there are no more."""
    return b'{"jobs":[%b],"cursor":%b}' % (b",".join(documents), _encode(cursor or None))
