"""A request in the express lane, from its head to its answer. Knows nothing of uvicorn."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from forebay.api.cache_control import told
from forebay.api.codings import coded
from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import Endpoint, in_turns
from forebay.api.job_answers import Accepted, accepted
from forebay.api.jobs import Asked
from forebay.api.lane_heads import CACHE_HEADERS
from forebay.api.problems import Answer, detailed_of
from forebay.api.recall import Form, Memo
from forebay.core.caching import MISSED, USUAL_ASK
from forebay.core.request import Request

if TYPE_CHECKING:
    from forebay.api.lane import Lane


def is_arriving(connections: Iterable[Any], endpoint: Endpoint) -> bool:
    """Whether any connection has a request in the lane that was let in for `endpoint` and is not submitted yet."""
    return any(
        slot.endpoint is endpoint and slot.request is None and slot.answer is None
        for connection in connections
        for slot in connection.slots
    )


class _NoEvent:
    """Stands where uvicorn's connection sets an event of its cycle: nothing waits for a slot."""

    def set(self) -> None:
        pass


_NO_EVENT = _NoEvent()


class Slot(msgspec.Struct, eq=False, weakref=False):
    """One request in the lane, with as much of the interface of uvicorn's cycle as the connection looks at."""

    lane: Lane
    endpoint: Endpoint | None
    keep_alive: bool
    headers: Any = ()
    """Of the request, name and value in bytes; they are looked at only when its answer is large."""
    response_complete: bool = False
    disconnected: bool = False
    body: bytes | bytearray = b""
    content_type: bytes | None = None
    header_length: bytes | None = None
    request: Request | None = None
    answer: Answer | None = None
    message_event: Any = _NO_EVENT
    caller: str = ""
    """The name of the API key that it came with."""
    asks: bool = False
    """It says what it wants of the cache."""
    tenant: str | None = None
    """Whose job is to be submitted; None where it is inference."""

    def heeds(self, name: bytes) -> bool:
        """Whether a request with this header, of those that are watched, can be served here."""
        self.asks = True
        return name in CACHE_HEADERS

    def read(self) -> None:
        """The body is here, and the lane has no shorter way for it: read and submit. Raises `ForebayError`."""
        endpoint = self.endpoint
        assert endpoint is not None
        now = monotonic()
        recall = endpoint.recall
        if recall is None:
            request = endpoint.read(self.body, now, self.done, self.content_type, self.header_length)
            self.request = request
            request.tenant = self.caller
            endpoint.engine.submit(request)
            return
        ask = recall.ask(self.headers, self.caller) if self.asks or self.caller else USUAL_ASK
        lane = self.lane
        if recall.any and lane.quick and len(lane.slots) == 1 and self.keep_alive and (ask is USUAL_ASK or ask.plain):
            form = (
                self._form(endpoint)
                if self.caller or self.header_length is not None or endpoint.whole is None
                else None
            )
            memo = recall.find(self.body, form, now)
            if memo is not None:
                self._recalled(memo, now)
                return
        if endpoint.whole is not None and self.header_length is None:
            request = endpoint.whole(self.body, now, self.answered)
        else:
            request = endpoint.read(self.body, now, self.answered, self.content_type, self.header_length)
        self.request = request
        request.cache, request.tenant = ask, self.caller
        endpoint.engine.submit(request)

    def _form(self, endpoint: Endpoint) -> Form | None:
        """On what the meaning of the body depends; None: on nothing but the endpoint."""
        if not self.caller and self.header_length is None and not endpoint.is_image(self.content_type):
            return None
        return self.caller, self.content_type, self.header_length

    def _recalled(self, memo: Memo, now: float) -> None:
        lane = self.lane
        lane.slots.pop()
        self.response_complete = True
        state = lane.server_state
        state.total_requests += 1
        age_s = now - memo.entry.created
        head = lane.heads.usual(state.default_headers)
        lane.transport.write(b"%b%b%d\r\n\r\n%b" % (head, memo.head, age_s, memo.body))

    def answered(self, request: Request) -> None:
        """`done`, where answers are kept. One that was is remembered for whoever sends the same body."""
        lane, endpoint = self.lane, self.endpoint
        assert endpoint is not None
        slots, body = lane.slots, None
        note = request.cached
        if note is not None and lane.quick and len(slots) == 1 and self.keep_alive:
            try:
                body = endpoint.plain(request)
            except Exception:
                body = None  # `answer` meets the same error, and says what it is
        if body is None or len(body) >= lane.compress_from_bytes:
            self._leave(endpoint.answer(request))
            return
        slots.pop()
        self.response_complete = True
        state = lane.server_state
        state.total_requests += 1
        head = lane.heads.usual(state.default_headers)
        if note is MISSED:
            lane.transport.write(b"%b%d\r\nx-cache: miss\r\n\r\n%b" % (head, len(body), body))
            return
        lines = b"".join(b"\r\n%b: %b" % pair for pair in told(note))
        lane.transport.write(b"%b%d%b\r\n\r\n%b" % (head, len(body), lines, body))
        if endpoint.recall is not None and (request.cache is None or request.cache.keeps):
            endpoint.recall.keep(self.body, self._form(endpoint), note, body)

    def done(self, request: Request) -> None:
        """The engine has answered. The usual answer to the only request in the lane is written at once."""
        lane, endpoint = self.lane, self.endpoint
        assert endpoint is not None
        slots, body = lane.slots, None
        if lane.quick and len(slots) == 1 and self.keep_alive:
            try:
                body = endpoint.plain(request)
            except Exception:
                body = None  # `answer` meets the same error, and says what it is
            if body is not None and len(body) < lane.compress_from_bytes:
                slots.pop()
                self.response_complete = True
                state = lane.server_state
                state.total_requests += 1
                lane.transport.write(b"%b%d\r\n\r\n%b" % (lane.heads.usual(state.default_headers), len(body), body))
                return
        self._leave(endpoint.answer(request) if body is None else Answer(200, JSON_HEADERS, body))

    def _leave(self, answer: Answer) -> None:
        """An answer that is not the usual one to the only request, in the coding that its caller wants."""
        if len(answer.body) >= self.lane.compress_from_bytes:
            in_turns(coded(answer, self.headers), self._coded)
        else:
            self.finish(answer)

    def _coded(self, answer: Answer | Exception) -> None:
        """A large answer has its coding."""
        if isinstance(answer, Exception):
            self.lane.fail(answer)
        elif not self.disconnected:
            self.finish(answer)

    def asked(self, tenant: str) -> Asked:
        """The job that is asked for, whose body is here."""
        headers = self.headers if self.asks else ()
        return Asked(tenant, bytes(self.body), self.content_type, self.header_length, headers=headers)

    def accepted(self, found: Accepted | Exception) -> None:
        """A job is in the store, or is not."""
        self.finish(detailed_of(found) if isinstance(found, Exception) else accepted(found))

    def more(self, body: bytes) -> None:
        """Another piece of the body."""
        if not isinstance(self.body, bytearray):
            self.body = bytearray(self.body)
        self.body += body

    def abandon(self) -> None:
        """The client has left."""
        self.disconnected = True
        if self.request is not None and self.endpoint is not None:
            self.endpoint.engine.cancel(self.request)

    def submit(self, read: Request | Exception) -> None:
        """A body that was decoded elsewhere is back: to the engine, unless the client has left."""
        assert self.endpoint is not None
        try:
            if isinstance(read, Exception):
                raise read
            if self.disconnected:
                return
            self.request = read
            read.tenant = self.caller
            if self.endpoint.recall is not None:
                read.cache = self.endpoint.recall.ask(self.headers, self.caller)
            self.endpoint.engine.submit(read)
        except Exception as error:
            self.finish(self.endpoint.refuse(error))

    def finish(self, answer: Answer) -> None:
        """The answer is known: it leaves now, or when its turn has come."""
        self.answer = answer
        lane = self.lane
        if lane.slots and lane.slots[0] is self:
            try:
                lane.flush()
            except Exception as error:
                lane.fail(error)
