"""Jobs and their events as a caller sees them, read from what a server tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar, cast

import msgspec

from forebay.client.answers import parse_json
from forebay.client.errors import InvalidAnswerError, error_of
from forebay.client.event_source import ServerSentEvent
from forebay.core.errors import ForebayError

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A job as it was when the server told of it; it does not change by itself."""

    id: str
    model: str
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    """Of the last attempt; None: it has not begun."""
    finished_at: datetime | None = None
    version: str = ""
    """Where one was asked for."""
    attempt: int = 0
    """Of runs begun."""
    max_attempts: int = 0
    cached: bool = False
    progress: float = 0.0
    """0 to 1, where the model tells."""
    output: Any = field(default=None, repr=False)
    """JSON of the answer, where it is JSON and the job was asked for by itself. `wait` gives arrays, in every case."""
    error: ForebayError | None = None
    """Why it did not succeed."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """How it was batched and how long it took."""
    metadata: dict[str, Any] | None = None
    replay_of: str = ""
    """The failed job that this one repeats."""
    urls: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, whatever that is."""
        return self.status in ENDED


@dataclass(frozen=True, kw_only=True, eq=False)
class JobEvent:
    """Something that happened to a job."""

    kind: Literal["status", "progress", "output", "done"]
    sequence: int
    """Counts the events of a job. Give it to `stream` as `after` to go on behind this one."""
    status: Status | None = None
    """Of `status` and `done`: what the job is now."""
    attempt: int = 0
    progress: float | None = None
    """Of `progress`: 0 to 1."""
    output: Any = field(default=None, repr=False)
    """Of `output`: JSON of one piece. Pieces of an earlier attempt are void once a later one has begun."""
    job: Job | None = None
    """Of `done`: the whole job, as it ended."""


JobOrId = Job | str
StructT = TypeVar("StructT", bound=msgspec.Struct)


class _Document(msgspec.Struct):
    """A job as its server writes it."""

    id: str
    model: str
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: str = ""
    attempt: int = 0
    max_attempts: int = 0
    cached: bool = False
    progress: float = 0.0
    output: Any = None
    error: dict[str, Any] | None = None
    metrics: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None
    replay_of: str = ""
    urls: dict[str, str] = {}


class _Page(msgspec.Struct):
    jobs: list[Any]
    cursor: str | None = None


class _Batch(msgspec.Struct):
    jobs: list[dict[str, Any]]


class _Told(msgspec.Struct):
    """An event other than `done` as its server writes it."""

    sequence: int
    attempt: int = 0
    status: Status | None = None
    progress: float | None = None
    output: Any = None


def id_of(job: JobOrId) -> str:
    """The id of a job."""
    return job.id if isinstance(job, Job) else job


def read_job(document: Any) -> Job:
    """A job from its JSON. Raises `InvalidAnswerError`."""
    found = _converted(document, _Document)
    members = {name: getattr(found, name) for name in _Document.__struct_fields__ if name != "error"}
    return Job(**members, error=None if found.error is None else job_error(found.error))


def read_page(body: bytes | bytearray) -> tuple[list[Job], str]:
    """(jobs, cursor) of one page of the list; an empty cursor: it is the last one."""
    page = _converted(parse_json(body), _Page)
    return [read_job(document) for document in page.jobs], page.cursor or ""


def read_batch(body: bytes | bytearray, count: int) -> list[Job | ForebayError]:
    """What became of each of `count` jobs that were submitted together."""
    items = _converted(parse_json(body), _Batch).jobs
    if len(items) != count:
        raise InvalidAnswerError(f"{count} jobs were submitted, the answer has {len(items)}")
    # The status of a job is a word, that of a problem the number of HTTP.
    return [error_of(item["status"], item) if type(item.get("status")) is int else read_job(item) for item in items]


def read_event(event: ServerSentEvent) -> JobEvent | None:
    """An event of a job; None: one of a kind that this version does not know.

    Raises what ends the stream without the job's end: it was deleted, for instance.
    """
    if event.kind == "problem":
        problem = parse_json(event.data)
        members: Mapping[str, Any] = problem if isinstance(problem, dict) else {}
        status = members.get("status")
        raise error_of(status if type(status) is int else 500, members)
    if event.kind == "done":
        job = read_job(parse_json(event.data))
        sequence = int(event.id) if event.id.isdigit() else 0
        return JobEvent(kind="done", sequence=sequence, status=job.status, attempt=job.attempt, job=job)
    if event.kind not in ("status", "progress", "output"):
        return None
    told = _converted(parse_json(event.data), _Told)
    return JobEvent(
        kind=cast(Any, event.kind),
        sequence=told.sequence,
        status=told.status,
        attempt=told.attempt,
        progress=told.progress,
        output=told.output,
    )


def job_error(members: Mapping[str, Any]) -> ForebayError:
    """Why a job did not succeed. The same job never does, so it is not retryable."""
    error = error_of(500, members)
    error.status, error.retryable = None, False
    return error


def _converted(document: Any, kind: type[StructT]) -> StructT:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InvalidAnswerError(f"the answer does not tell of a job as Forebay does: {error}") from None
