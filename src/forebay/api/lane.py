"""The express lane: plain inference requests are answered inside the HTTP protocol object, without an ASGI task.

The lane only frames bytes and keeps order and time. Auth, decoding, the engine and encoding are the functions that the
ASGI endpoints call too. It takes POST on the exact paths of inference, HTTP/1.1, with a Content-Length within the limit
and nothing that needs more thought; whatever else arrives, on the same connection too, goes uvicorn's ordinary way.

This is the only file that knows uvicorn's internals (0.54); `usable` checks what is used of them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from time import monotonic as _now
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from forebay.api.encode import JSON_HEADERS
from forebay.api.inference import Endpoint, Inference
from forebay.api.lane_heads import ResponseHeads, answering, too_slow
from forebay.api.problems import CLOSE, Answer, closing, problem
from forebay.core.request import Request
from forebay.core.settings import ServerSettings

log = logging.getLogger("forebay.api")

SWEEP_S = 1.0
"""How often connections are looked at for slow and idle clients."""

_WATCHED = frozenset(
    (
        b"content-length",
        b"content-type",
        b"authorization",
        b"inference-header-content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"connection",
        b"expect",
        b"upgrade",
        b"prefer",
    )
)
_ASGI, _LANE, _IGNORED = 0, 1, 2


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
    response_complete: bool = False
    disconnected: bool = False
    body: bytes | bytearray = b""
    content_type: bytes | None = None
    header_length: bytes | None = None
    request: Request | None = None
    answer: Answer | None = None
    message_event: Any = _NO_EVENT

    def done(self, request: Request) -> None:
        """The engine has answered. The usual answer to the only request in the lane is written at once."""
        lane, endpoint = self.lane, self.endpoint
        assert endpoint is not None
        slots = lane.slots
        if lane.quick and len(slots) == 1 and self.keep_alive and (body := endpoint.plain(request)) is not None:
            slots.pop()
            self.response_complete = True
            state = lane.server_state
            state.total_requests += 1
            lane.transport.write(b"%b%d\r\n\r\n%b" % (lane.heads.usual(state.default_headers), len(body), body))
        else:
            self.finish(endpoint.answer(request))

    def finish(self, answer: Answer) -> None:
        """The answer is known: it leaves now, or when its turn has come."""
        self.answer = answer
        lane = self.lane
        if lane.slots and lane.slots[0] is self:
            lane.flush()


class Lane(HttpToolsProtocol):
    """A connection. Made by uvicorn for each one; `lane_protocol` binds the class to a server."""

    inference: Inference
    settings: ServerSettings
    by_path: dict[bytes, Endpoint]
    heads: ResponseHeads
    slots: deque[Slot]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = deque()
        self.slot: Slot | None = None  # the one whose body is arriving
        self.mode = _ASGI
        self.in_message = False
        self.in_body = False
        self.since_s = 0.0  # when the present wait (for a head, a body, the next request) was first seen; 0: not yet
        self.quick = True  # nothing is to be seen to after an answer but the answer
        self.deaf = False  # the stream is broken: whatever else arrives is not read

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what arrived. Whatever goes wrong in here costs this connection, never the loop."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self.deaf:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            log.error("a connection is closed after an internal error", exc_info=error)
            self.transport.abort()
        except httptools.HttpParserUpgrade:
            self._refuse_upgrade()
        except httptools.HttpParserError as error:
            self._malformed(str(error))

    def on_message_begin(self) -> None:
        """A request line begins."""
        self.url = b""
        self.headers = []
        self.mode = _ASGI
        self.in_message = True
        self.in_body = False
        self.since_s = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: into the lane, or the ordinary way."""
        self.in_body = True
        self.since_s = 0.0
        endpoint = self.by_path.get(self.url)
        if endpoint is None or not self._take(endpoint):
            self._decline()

    def _take(self, endpoint: Endpoint) -> bool:
        """Whether the lane has taken the request whose head is complete."""
        parser, slots = self.parser, self.slots
        if parser.get_method() != b"POST" or self.pipeline:
            return False
        if not slots and self.cycle is not None and not self.cycle.response_complete:
            return False  # an ASGI request is ahead: its way keeps the order
        keep_alive = parser.should_keep_alive()
        length, told = -1, False
        slot = Slot(self, endpoint, keep_alive)
        authorization: bytes | None = None
        for name, value in self.headers:
            if name in _WATCHED:
                if name == b"content-length":
                    length = int(value)
                elif name == b"content-type":
                    slot.content_type = value
                elif name == b"authorization":
                    authorization = value
                elif name == b"inference-header-content-length":
                    slot.header_length = value
                elif name == b"connection":
                    told = True
                else:
                    return False
        # The parser spells a version slowly. HTTP/1.0 keeps alive only where it says so; 1.1 ends only where it does.
        if (told or not keep_alive) and parser.get_http_version() != "1.1":
            return False
        inference = self.inference
        if length < 0 or length > inference.server.max_body_bytes:
            return False
        self.cycle = slot  # type: ignore[assignment]
        slots.append(slot)
        try:
            if inference.guarded:
                inference.gate.enter(authorization)
            if endpoint.engine.state != "ready":
                inference.admit(endpoint)
        except Exception as error:
            self.mode = _IGNORED
            slot.finish(endpoint.refuse(error))
        else:
            self.mode = _LANE
            self.slot = slot
        return True

    def _decline(self) -> None:
        """uvicorn's own way, from the beginning of the message."""
        self.quick = not self.slots
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.scope["headers"] = headers
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        slot = self.slot
        if slot is not None:
            if not slot.body:
                slot.body = body
            else:
                if not isinstance(slot.body, bytearray):
                    slot.body = bytearray(slot.body)
                slot.body += body
        elif self.mode == _ASGI:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.in_message = False
        self.since_s = 0.0
        slot = self.slot
        if slot is not None:
            self.slot = None
            endpoint, body = slot.endpoint, slot.body
            assert endpoint is not None
            try:
                if len(body) > self.settings.decode_off_loop_bytes and endpoint.slow_to_decode(slot.header_length):
                    self._read_elsewhere(slot, endpoint)
                elif endpoint.decode is not None and slot.header_length is None:
                    request = slot.request = endpoint.decode(body, _now(), slot.done)
                    endpoint.engine.submit(request)
                else:
                    request = endpoint.read(body, _now(), slot.done, slot.content_type, slot.header_length)
                    slot.request = request
                    endpoint.engine.submit(request)
            except Exception as error:
                slot.finish(endpoint.refuse(error))
            if len(self.slots) >= self.settings.max_pipelined:
                self.quick = False
                self.flow.pause_reading()
        elif self.mode == _ASGI:
            super().on_message_complete()

    def _read_elsewhere(self, slot: Slot, endpoint: Endpoint) -> None:
        endpoint.read_elsewhere(slot.body, _now(), slot.done, slot.content_type, lambda read: self._submit(slot, read))

    def _submit(self, slot: Slot, read: Request | Exception) -> None:
        """A body that was decoded elsewhere is back."""
        assert slot.endpoint is not None
        try:
            if isinstance(read, Exception):
                raise read
            if slot.disconnected:
                return
            slot.request = read
            slot.endpoint.engine.submit(read)
        except Exception as error:
            slot.finish(slot.endpoint.refuse(error))

    # -- bytes out ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the answers whose turn has come."""
        slots, transport = self.slots, self.transport
        while slots and (answer := slots[0].answer) is not None:
            slot = slots.popleft()
            slot.response_complete = True
            if transport.is_closing():
                continue
            self.server_state.total_requests += 1
            closes = answer.headers is not JSON_HEADERS and CLOSE in answer.headers
            end = b"\r\n\r\n" if slot.keep_alive or closes else b"\r\nconnection: close\r\n\r\n"
            head = self.heads.of(answer, self.server_state.default_headers)
            transport.write(b"%b%d%b%b" % (head, len(answer.body), end, answer.body))
            if closes or not slot.keep_alive:
                transport.close()
        if transport.is_closing():
            return
        if self.pipeline and not slots:
            super().on_response_complete()  # starts the ASGI request that waited for the lane
        elif self.flow.read_paused and len(slots) < self.settings.max_pipelined and not self.flow.write_paused:
            self.flow.resume_reading()
        self.quick = not (self.pipeline or self.flow.read_paused)

    def pause_writing(self) -> None:
        """The client does not read its answers: nothing more is read from it."""
        super().pause_writing()
        self.quick = False
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if len(self.slots) < self.settings.max_pipelined:
            self.flow.resume_reading()

    # -- endings ------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: its work is dropped."""
        for slot in self.slots:
            slot.disconnected = True
            if slot.request is not None and slot.endpoint is not None:
                slot.endpoint.engine.cancel(slot.request)
        self.slots.clear()
        super().connection_lost(exc)

    def _malformed(self, reason: str) -> None:
        self._reject(closing(problem("invalid_request", f"malformed HTTP: {reason}")))

    def _refuse_upgrade(self) -> None:
        """The request is answered as if it had not asked (RFC 9110, 7.8), but its connection cannot go on."""
        self.deaf = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _reject(self, answer: Answer) -> None:
        """A last answer, after those that are ahead of it. Nothing more is read."""
        self.deaf = True
        self.quick = False
        cycle = self.cycle
        if self.slots or cycle is None or cycle.response_complete:
            slot = Slot(self, None, keep_alive=False)
            self.slots.append(slot)
            self.cycle = slot  # type: ignore[assignment]
            slot.finish(answer)
            return
        own = self.in_body and self.mode == _ASGI  # the stream broke inside the body of this very cycle
        if own:
            cycle.disconnected = True
            cycle.message_event.set()
        ahead = any(waiting is cycle for waiting, _ in self.pipeline) if own else True
        if ahead:
            if own:
                self.pipeline.popleft()
            self.pipeline.appendleft((self._last_cycle(), answering(answer)))
        elif not cycle.response_started:
            head = self.heads.of(answer, self.server_state.default_headers)
            self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(answer.body), answer.body))
            self.transport.close()
        else:
            self.transport.close()

    def _last_cycle(self) -> RequestResponseCycle:
        return RequestResponseCycle(
            scope={"type": "http", "method": "POST", "path": "", "headers": []},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )

    def sweep(self, now: float) -> None:
        """Called every second: end what is too slow or idle. `since_s` is set here, so that requests need not."""
        if not self.since_s:
            self.since_s = now
            return
        waited_s = now - self.since_s
        settings = self.settings
        if self.deaf or self.transport.is_closing():
            return
        if self.in_message and not self.in_body:
            if waited_s > settings.head_timeout_s:
                self._reject(too_slow("head", settings.head_timeout_s))
        elif self.in_message:
            if waited_s > settings.body_timeout_s:
                self._end_body()
        elif self.cycle is not None and not self.cycle.response_complete:
            self.since_s = 0.0
        elif waited_s > (settings.keep_alive_s if self.cycle is not None else settings.head_timeout_s):
            self.transport.close()

    def _end_body(self) -> None:
        if self.mode == _LANE:
            slot, self.slot = self.slot, None
            assert slot is not None
            self.deaf = True
            slot.finish(too_slow("body", self.settings.body_timeout_s))
        elif self.cycle.response_complete:  # answered before its body had arrived; a running app sees to it itself
            self.transport.close()


def lane_protocol(inference: Inference, settings: ServerSettings) -> type[Lane]:
    """The connection class of one server. With `express_lane = off` it takes no request, but still keeps time."""
    by_path = inference.by_path if settings.express_lane == "auto" else {}
    members = {"inference": inference, "settings": settings, "by_path": by_path, "heads": ResponseHeads()}
    return type("ServerLane", (Lane,), members)


def sweep_connections(connections: set[Any]) -> None:
    """One round of `Lane.sweep` over a server's connections."""
    now = _now()
    for connection in list(connections):
        if isinstance(connection, Lane):
            connection.sweep(now)


def usable() -> str:
    """Why the lane cannot run on the uvicorn that is installed; empty when it can."""
    needed = "on_message_begin on_headers_complete on_body on_message_complete on_response_complete data_received "
    needed += "connection_lost pause_writing resume_writing shutdown _start_asgi_task _unset_keepalive_if_required"
    missing = [name for name in needed.split() if not hasattr(HttpToolsProtocol, name)]
    wanted = {"scope", "transport", "flow", "message_event", "keep_alive", "on_response", "expect_100_continue"}
    missing += sorted(wanted - set(inspect.signature(RequestResponseCycle).parameters))
    return f"uvicorn's HTTP protocol has no {', '.join(missing)}" if missing else ""
