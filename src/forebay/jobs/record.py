"""A job: what was asked (`JobSpec`, never changes) and how far it is (`JobRecord`).

    queued -> running -> succeeded | failed | canceled | expired
       ^---------'  another attempt, or given back

The record decides, not the queue. A claim writes a nonce and the end of its lease, both by the store's clock; whoever
extends, gives back or finishes shows the nonce, and the first to finish wins. Times are milliseconds since 1970 of the
store's clock, except in ids.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import msgspec

ENVELOPE_VERSION: Final = 1
"""Of `JobSpec` as it is stored and carried. Fields may be added within a version; readers pass over those they do not
know, and refuse another version."""
UNREADABLE: Final = 0
"""The version that readers see of a job whose envelope they cannot read at all; of what was asked they know its model
and tenant."""

State = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
STATE_NAMES: Final[frozenset[State]] = frozenset(get_args(State))
TERMINAL: Final[frozenset[State]] = frozenset({"succeeded", "failed", "canceled", "expired"})
MOVES: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"running", "canceled", "expired"}),
    "running": frozenset({"queued", "succeeded", "failed", "canceled", "expired"}),
}
"""The states that may follow each; none follows a terminal one. Every store holds to it, and the contract suite to
them."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for. msgpack of it is the envelope that stores keep and brokers carry."""

    envelope: int = ENVELOPE_VERSION
    id: str
    """UUIDv7."""
    model: str
    version: str = ""
    """Empty: the one that is served when it runs."""
    tenant: str
    """The name of the API key that it came with; nobody else sees it."""
    level: int = 1
    """0 high, 1 normal, 2 low priority."""
    body: bytes = b""
    """As the caller sent it, in the form of `/infer`."""
    content_type: str = ""
    header_length: str = ""
    """Value of Inference-Header-Content-Length; empty: there was none."""
    ttl_s: float | None = None
    """Latest start, of later attempts too, from when it was accepted; else it expires."""
    timeout_s: float | None = None
    """Longest run of one attempt."""
    retention_s: float = 86400.0
    """How long the record is kept once it is finished."""
    max_attempts: int = 3
    webhook: str = ""
    cache: str = ""
    """Whether its answer may come from the cache (use, refresh, off, only); empty: use."""
    max_age_s: float | None = None
    """No older answer from there; None: any that is served."""
    tags: tuple[str, ...] = ()
    """By which its answer can be found again, where one is kept."""
    replay_of: str = ""
    """Id of the failed job that this one repeats; empty: none."""
    metadata: dict[str, Any] | None = None


class JobError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job did not succeed, as its caller sees it. `code` is one of `core.errors`."""

    code: str
    message: str
    stage: str = ""


CANCELED: Final = JobError("request_canceled", "The job was canceled.")
"""What a job is canceled with where it was asked for."""
OVERDUE: Final = JobError("deadline_exceeded", "The job had not started when its ttl_s was over.", "queued")
SILENT: Final = JobError("instance_crashed", "Every worker that ran the job fell silent.", "executing")
"""What a job fails with whose last attempt's lease ended."""


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer as `/infer` would give it: its body and, for the binary form, the length of its JSON."""

    body: bytes
    content_type: str = "application/json"
    header_length: str = ""


class JobRecord(msgspec.Struct, kw_only=True):
    """A job as its store holds it. Without its body and output where they were not asked for."""

    spec: JobSpec
    state: State
    attempt: int = 0
    """Of runs begun; 1 while the first runs. One that was given back does not count."""
    sequence: int = 1
    """Counts the events of a job, from 1 (queued): the id of the last one."""
    created_ms: int = 0
    started_ms: int = 0
    """Of the last attempt; 0: never."""
    finished_ms: int = 0
    progress: float = 0.0
    """0 to 1, of the last attempt, where the model tells."""
    output: Output | None = None
    error: JobError | None = None
    metrics: dict[str, Any] | None = None
    """What the engine told of its batch: batch_rows, queue_ms, compute_ms, dispatch_reason; or
    `cached`, how its answer came from the cache (True: an earlier release did not say), with `entry`, `age_s` and, of a
    near text, `score`."""


def transition(record: JobRecord, state: State) -> None:
    """Move a record to `state` and count the event. Raises `ValueError` where `MOVES` does not allow it."""
    if state not in MOVES.get(record.state, ()):
        raise ValueError(f"job {record.spec.id} is {record.state} and cannot become {state}")
    record.state = state
    record.sequence += 1
