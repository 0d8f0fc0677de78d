"""What stands in the records of jobs in Redis, to and from what the ports speak of."""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import msgspec

from forebay.jobs.record import TERMINAL, UNREADABLE, JobError, JobRecord, JobSpec, Output, State
from forebay.jobs.store import Change, Event, Finish, Gone, Look

STATES: Final[dict[bytes, State]] = {
    b"q": "queued",
    b"r": "running",
    b"s": "succeeded",
    b"f": "failed",
    b"c": "canceled",
    b"x": "expired",
}
LETTERS: Final[dict[str, str]] = {state: letter.decode() for letter, state in STATES.items()}
KIND_LETTERS: Final[dict[str, bytes]] = {
    "succeeded": b"s",
    "failed": b"f",
    "expired": b"x",
    "canceled": b"c",
    "retry": b"t",
    "release": b"l",
}
_KINDS: Final[dict[bytes, Any]] = {b"s": "status", b"p": "progress", b"o": "output"}
SUBMISSION: Final = struct.Struct(">c16sd")
_SECTION: Final = struct.Struct(">cI")
_CHANGE: Final = struct.Struct(">16sI")
_MODEL: Final = struct.Struct(">BH")
_INSTANT: Final = struct.Struct(">d")
_END_BYTES: Final = _INSTANT.size + 1
_RARE: Final = struct.Struct(">IH")
_PLAIN_OUTPUT: Final = Output(b"")

_encoder = msgspec.msgpack.Encoder()
_spec_decoder = msgspec.msgpack.Decoder(JobSpec)
_terms_decoder = msgspec.msgpack.Decoder(tuple[str, int, str, int | bool, int, int | str])
_error_decoder = msgspec.msgpack.Decoder(JobError)
_metrics_decoder = msgspec.msgpack.Decoder(dict[str, Any])


def packed_id(id: str) -> bytes:
    """The 16 bytes of an id."""
    return bytes.fromhex(id.replace("-", ""))


def written_id(packed: bytes) -> str:
    """An id as it is written."""
    text = packed.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def packed_spec(spec: JobSpec) -> bytes:
    """The envelope: without body, which is kept apart, and id, which is its key."""
    return _encoder.encode(msgspec.structs.replace(spec, id="", body=b""))


def packed_foreign(asked: Mapping[str, Any]) -> bytes:
    """The envelope of a spec of another version, with what is not known here, too."""
    return _encoder.encode({**asked, "id": "", "body": b""})


def packed_terms(spec: JobSpec) -> bytes:
    """What the scripts must know of a job, which never changes; the same for jobs alike."""
    ttl_ms = False if spec.ttl_s is None else round(spec.ttl_s * 1000)
    # The flag costs those without a webhook nothing in this form.
    attempts = f"{spec.max_attempts}w" if spec.webhook else spec.max_attempts
    return _encoder.encode((spec.model, spec.level, spec.tenant, ttl_ms, round(spec.retention_s * 1000), attempts))


def spec_of(envelope: bytes, id: str, body: bytes = b"") -> JobSpec:
    """A spec from its envelope. Raises `msgspec.DecodeError` for one of a program that is too new."""
    spec = _spec_decoder.decode(envelope)
    msgspec.structs.force_setattr(spec, "id", id)
    msgspec.structs.force_setattr(spec, "body", body)
    return spec


def shown_spec(envelope: bytes, id: str, terms: bytes, body: bytes = b"") -> JobSpec:
    """As much as can be read of a spec."""
    try:
        return spec_of(envelope, id, body)
    except msgspec.DecodeError:
        model, level, tenant, _, _, attempts = _terms_decoder.decode(terms)
        most = int(str(attempts).rstrip("w"))
        return JobSpec(envelope=UNREADABLE, id=id, model=model, tenant=tenant, level=level, max_attempts=most)


def packed_error(error: JobError | None) -> bytes:
    """Empty: there is none."""
    return b"" if error is None else _encoder.encode(error)


def finish_arguments(finish: Finish) -> tuple[bytes, bytes, bytes, bytes]:
    """The arguments of `finish.lua` for one job."""
    output, job = finish.output, finish.job
    head = packed_id(job.spec.id) + KIND_LETTERS[finish.kind] + job.nonce.encode()
    metrics = b"" if finish.metrics is None else _encoder.encode(finish.metrics)
    form = b""
    if output is not None and (output.header_length or output.content_type != _PLAIN_OUTPUT.content_type):
        form = f"{output.content_type}\n{output.header_length}".encode()
    rare = b""
    if form or finish.error is not None or finish.delay_s:
        rare = _RARE.pack(round(finish.delay_s * 1000), len(form)) + form + packed_error(finish.error)
    return head, b"" if output is None else b"o" + output.body, metrics, rare


def look_of(id: str, fields: Any) -> Look:
    """A record from the reply of `show` in `prelude.lua`."""
    if not isinstance(fields, list):
        return Gone(fields.decode()) if isinstance(fields, bytes) else None
    state, terms, envelope, order, attempt, sequence, claim, end, progress, error, output, form = fields
    record = JobRecord(
        spec=shown_spec(envelope, id, terms),
        state=STATES[state],
        attempt=attempt,
        sequence=sequence,
        created_ms=int(order) // 1000,
        progress=float(progress or 0),
    )
    if claim:
        record.started_ms = int(_INSTANT.unpack_from(claim)[0])
    if end:
        record.finished_ms = int(_INSTANT.unpack_from(end)[0])
    if end and len(end) > _END_BYTES:
        record.metrics = _metrics_decoder.decode(end[_END_BYTES:])
    if error:
        record.error = _error_decoder.decode(error)
    if output is not None:
        content_type, _, length = (form or b"").decode().partition("\n")
        record.output = Output(output, content_type, length) if form else Output(output)
    return record


def events_of(reply: Sequence[Any], after: int) -> list[Event]:
    """The events of a job from the reply of `events.lua`; those that the record itself tells are not listed there."""
    if not reply:
        return []
    letter, last, running, attempt, progress, listed, whole = reply
    state, reached = STATES[letter], float(progress or 0)
    events = [Event(1, "status", "queued", 0), *map(_event_of, listed)]
    if int(running):
        events.append(Event(int(running), "status", "running", int(attempt)))
    if state in TERMINAL:
        events.append(Event(int(last), "status", state, int(attempt), reached))
    until = int(last) if whole else _event_of(listed[-1]).sequence
    wanted = (event for event in events if after < event.sequence <= until)
    return sorted(wanted, key=lambda event: event.sequence)


def _event_of(entry: bytes) -> Event:
    head, _, piece = entry.partition(b"\n")
    sequence, kind, state, attempt, progress = head.split(b" ")
    return Event(int(sequence), _KINDS[kind], STATES[state], int(attempt), float(progress), piece)


def changes_of(message: bytes, states: Container[State]) -> tuple[list[Change], list[str]]:
    """What one message on the channel tells: changes to these states, and the models that have new work."""
    at, changes, work = 0, list[Change](), list[str]()
    while at < len(message):
        has_work, length = _MODEL.unpack_from(message, at)
        at += _MODEL.size
        model = message[at : at + length].decode()
        at += length + 1
        if has_work:
            work.append(model)
        for _ in range(message[at - 1]):
            letter, count = _SECTION.unpack_from(message, at)
            state, begin = STATES[letter], at + _SECTION.size
            at = begin + count * _CHANGE.size
            if state in states:
                rows = _CHANGE.iter_unpack(memoryview(message)[begin:at])
                changes += [Change(written_id(id), sequence, state, model) for id, sequence in rows]
    return changes, work
