"""What the event streams of jobs have in common, server-sent or over a WebSocket: which events are sent, and when.

Events wait in the store, not here: a client is sent what it has not had when it can take it, so one that reads slowly
holds about `MOST_BYTES` of them and its connection's buffer.

The last event of a job is `done`, with the whole document, in place of its last status and under that one's sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NamedTuple, Protocol

import msgspec
from starlette.requests import HTTPConnection

from forebay.api.auth import Gate
from forebay.api.elements import show
from forebay.api.job_answers import gone, unknown
from forebay.api.job_documents import encoded_job
from forebay.api.job_hub import ENDED, Hub, Seen
from forebay.core.errors import RequestError
from forebay.jobs.ids import parse_id
from forebay.jobs.record import TERMINAL, JobRecord
from forebay.jobs.store import Event, Gone, Look

BEAT_S = 15.0
"""How often a stream is looked at: it is kept alive, or given up where it has taken nothing since the last time but
one."""
MOST_BYTES = 256 << 10
"""Of events that are read for a client at once; one that is larger goes alone."""
RETRY_S = 2.0
"""When to come back after a broken connection."""
RETURNS_PER_S = 500
"""How quickly clients are asked to come back after a shutdown."""
LAST_WORDS_S = 1.0
"""How long streams may take to tell their clients that the server ends."""

_PARTS = 60
_NEAR = 16
"""So few events before a job's end, its record is asked for together with them."""
_SEQUENCE = re.compile(r"[0-9]{1,15}")


class Item(NamedTuple):
    """One event as it is sent; `data` is JSON without line breaks."""

    kind: str
    sequence: int
    data: bytes


class StatusEvent(msgspec.Struct, tag_field="type", tag="status"):
    """A job's state has changed."""

    id: str
    sequence: int
    status: str
    attempt: int


class ProgressEvent(msgspec.Struct, tag_field="type", tag="progress"):
    """How far a running job is, 0 to 1."""

    id: str
    sequence: int
    attempt: int
    progress: float


class OutputEvent(msgspec.Struct, tag_field="type", tag="output"):
    """A piece of the output. Those of an earlier attempt are void once a later one has begun."""

    id: str
    sequence: int
    attempt: int
    output: msgspec.Raw


_encode = msgspec.json.Encoder().encode


class Stream(Protocol):
    """One connection. Neither call may block."""

    def beat(self) -> None:
        """Called every `BEAT_S`."""
        ...

    def end(self) -> None:
        """The server shuts down."""
        ...


class Streams:
    """All open streams of a process."""

    def __init__(
        self,
        hub: Hub,
        gate: Gate,
        ready: Callable[[], Awaitable[None]],
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        """`ready`: awaited before every use of the store; raises `DependencyError`."""
        self.hub = hub
        self.gate = gate
        self.ready = ready
        self.closing = False
        self._returning = 0
        """Streams that were open when the server began to end."""
        self._all_left = asyncio.Event()
        # In parts that take turns, so that thousands are not kept alive in one long turn of the loop.
        self._parts: list[set[Stream]] = [set() for _ in range(_PARTS)]
        self._arrivals, self._beats = count(), count()
        self._part_s = beat_s / _PARTS
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Open streams."""
        return sum(map(len, self._parts))

    def join(self, stream: Stream) -> None:
        """A stream begins."""
        self._parts[next(self._arrivals) % _PARTS].add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._part_s, self._beat)

    def leave(self, stream: Stream) -> None:
        """It has ended."""
        for part in self._parts:
            part.discard(stream)
        if self.closing and not len(self):
            self._all_left.set()

    def _beat(self) -> None:
        self._timer = None
        if len(self):
            self._timer = asyncio.get_running_loop().call_later(self._part_s, self._beat)
        for stream in tuple(self._parts[next(self._beats) % _PARTS]):
            stream.beat()

    def end(self) -> None:
        """The server shuts down: every stream ends, and tells its client when to come back."""
        self.closing = True
        self._returning = max(self._returning, len(self))
        for part in self._parts:
            for stream in tuple(part):
                stream.end()

    async def ended(self, most_s: float = LAST_WORDS_S) -> None:
        """`end`, and wait until all have told their clients; at most so long, since some may not read."""
        self.end()
        if len(self):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await self._all_left.wait()

    def retry_ms(self) -> int:
        """When one client is to come back: later at random, and the more of them there are, once the server ends."""
        spread_s = max(RETRY_S, self._returning / RETURNS_PER_S) if self.closing else 0.0
        return round(1000 * (RETRY_S + random.uniform(0.0, spread_s)))


class Follow:
    """How far one client has been told of one job."""

    __slots__ = ("_asked", "_ended", "_known", "id", "over", "position")

    def __init__(self, id: str, after: int) -> None:
        """`after`: the sequence of the last event that the client has."""
        self.id = id
        self.position = after
        self.over = False
        """Nothing more will come: `done` has been told, or that there is no such job any more."""
        self._known = after
        self._asked = after
        self._ended = False

    @property
    def behind(self) -> bool:
        """Whether there may be something to fetch."""
        return not self.over and (self._ended or self._known > self._asked)

    def told(self, sequence: int, seen: Seen) -> bool:
        """Note what the hub says; whether there is something to fetch."""
        self._known = max(self._known, sequence)
        self._ended = self._ended or seen in ENDED
        return self.behind

    async def fetch(self, streams: Streams, base: str, most_bytes: int = MOST_BYTES) -> list[Item]:
        """The next events, `most_bytes` of them or a single one. Call it again while `behind`. `base`: what stands
        before the paths of this server.

        Raises `DependencyError`; then nothing is lost. Raises `RequestError` where the job is gone; then it is `over`.
        """
        known, ended, hub = self._known, self._ended, streams.hub
        look: Look = None
        near = ended and known - self.position <= _NEAR
        if near:
            events, look = await asyncio.gather(
                hub.reader.events(self.id, self.position, most_bytes), hub.read(self.id)
            )
        else:
            events = await hub.reader.events(self.id, self.position, most_bytes)
        items: list[Item] = []
        for event in events:
            if event.kind == "status" and event.state in TERMINAL:
                self._ended = True
                break
            items.append(_item(self.id, event))
            self.position = max(self.position, event.sequence)
        if events and events[-1].sequence < known:
            return items
        self._asked = known
        if not ended or (items and not near):
            return items
        if not near:
            look = await hub.read(self.id)
        if isinstance(look, JobRecord) and look.state in TERMINAL:
            items.append(Item("done", look.sequence, one_line(encoded_job(look, base))))
            self.position, self.over = look.sequence, True
        elif isinstance(look, JobRecord):
            self._ended = False
        else:
            self.over = True
            record_of(look, self.id)
        return items


async def known_job(streams: Streams, id: str, tenant: str) -> JobRecord:
    """The record of a job that this caller may see, without its output. Raises `RequestError`, `DependencyError`."""
    id = parse_id(id)
    await streams.ready()
    (look,) = await streams.hub.reader.read([id], output=False)
    return record_of(look, id, tenant)


def last_event_id(http: HTTPConnection) -> int:
    """What a client has had. A browser that comes back by itself sends the header, and its first query again."""
    given = http.headers.get("last-event-id") or http.query_params.get("last_event_id") or "0"
    if not _SEQUENCE.fullmatch(given):
        raise RequestError(f"Last-Event-ID must be the id of an event, not {show(given)}; leave it out to have all")
    return int(given)


def record_of(look: Look, id: str, tenant: str | None = None) -> JobRecord:
    """The record that was looked up. `tenant`: who asks; None: it has been checked before.

    Raises `RequestError` (job_not_found, job_gone). A job of somebody else is not found.
    """
    if isinstance(look, Gone) and tenant in (None, look.tenant):
        raise gone(id)
    if not isinstance(look, JobRecord) or tenant not in (None, look.spec.tenant):
        raise unknown(id)
    return look


def _item(id: str, event: Event) -> Item:
    of: msgspec.Struct
    if event.kind == "status":
        of = StatusEvent(id, event.sequence, event.state, event.attempt)
    elif event.kind == "progress":
        of = ProgressEvent(id, event.sequence, event.attempt, event.progress)
    else:
        of = OutputEvent(id, event.sequence, event.attempt, msgspec.Raw(event.piece or b"null"))
    return Item(event.kind, event.sequence, one_line(_encode(of)))


def one_line(json: bytes) -> bytes:
    """JSON on one line: a line break within it can only be white space."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\r", b" ").replace(b"\n", b" ")
    return json
