"""A job as its callers see it: one JSON document, the same in every answer and event.

`output` is the JSON of the answer as the model's encoder wrote it, embedded as it is; a binary answer stands only at
the job's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from forebay.jobs.record import JobRecord, JobSpec, Output

PATH = "/v1/jobs/"
_encode = msgspec.json.Encoder().encode
_SECONDS_KEPT = 64


def time_of(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    return f"{_second(ms // 1000)}{ms % 1000:03d}Z"


@lru_cache(_SECONDS_KEPT)
def _second(seconds: int) -> str:
    """A second, up to its point: those of jobs that are told of together are mostly the same."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


def job_path(id: str, base: str = "") -> str:
    """The path of a job. `base`: what stands before all paths of this server, where it is mounted into another."""
    return f"{base}{PATH}{id}"


def encoded_job(record: JobRecord, base: str = "") -> bytes:
    """A job as its record has it. Written piece by piece, since every submission is answered by one.

    Times have milliseconds; null: not yet, or never. version, progress, output, error, metadata and replay_of are left
    out where there is none.
    """
    spec, path = record.spec, _encode(job_path(record.spec.id, base))[:-1]
    cached = record.metrics is not None and "cached" in record.metrics
    return (
        b'{"id":"%b","model":%b%b,"status":"%b","created_at":"%b","started_at":%b,"finished_at":%b,"attempt":%d,'
        b'"max_attempts":%d,"cached":%b%b,"metrics":%b%b,"urls":{"self":%b","result":%b/result","events":%b/events",'
        b'"ws":%b/ws","cancel":%b/cancel"}}'
    ) % (
        spec.id.encode(),
        _encode(spec.model),
        b',"version":%b' % _encode(spec.version) if spec.version else b"",
        record.state.encode(),
        time_of(record.created_ms).encode(),
        _time_or_null(record.started_ms),
        _time_or_null(record.finished_ms),
        record.attempt,
        spec.max_attempts,
        b"true" if cached else b"false",
        _outcome(record),
        b"{}" if cached or not record.metrics else _encode(record.metrics),
        _mentioned(spec),
        path,
        path,
        path,
        path,
        path,
    )


def _time_or_null(ms: int) -> bytes:
    return b'"%b"' % time_of(ms).encode() if ms else b"null"


def _outcome(record: JobRecord) -> bytes:
    """Members that tell how far it is, or how it ended."""
    members = b""
    if record.progress:
        members += b',"progress":%b' % _encode(record.progress)
    if record.output is not None and is_json(record.output):
        members += b',"output":%b' % record.output.body
    if record.error is not None:
        members += b',"error":%b' % _encode(record.error)
    return members


def _mentioned(spec: JobSpec) -> bytes:
    """Members that say again what came with the job."""
    members = b""
    if spec.metadata is not None:
        members += b',"metadata":%b' % _encode(spec.metadata)
    if spec.replay_of:
        members += b',"replay_of":"%b"' % spec.replay_of.encode()
    return members


def is_json(output: Output) -> bool:
    """Whether an output is JSON as a whole, without binary tensors behind."""
    return not output.header_length and output.content_type == "application/json"


def page_of(documents: Sequence[bytes], cursor: str) -> bytes:
    """A page of the list, of encoded items; an empty cursor is null: there are no more."""
    return b'{"jobs":[%b],"cursor":%b}' % (b",".join(documents), _encode(cursor or None))
