"""The express lane: plain inference requests are answered inside the HTTP protocol object, without an ASGI task.

The lane only frames bytes and keeps order and time. Auth, decoding, the engine and encoding are the functions that the
ASGI endpoints call too. It takes POST on the exact paths of inference, HTTP/1.1, with a Content-Length within the limit
and nothing that needs more thought; whatever else arrives, on the same connection too, goes uvicorn's ordinary way.

It knows uvicorn's internals (0.54); `lane_check` checks what is used of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic as _now
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from forebay.api.auth import ANONYMOUS
from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import Endpoint
from forebay.api.inference import LEAVING, Inference, Leaving
from forebay.api.jobs import Jobs
from forebay.api.lane_heads import (
    MOST_HEAD_BYTES,
    WATCHED,
    ResponseHeads,
    answering,
    is_host,
    malformed,
    origin_form,
    refusal_of,
    unasked,
)
from forebay.api.lane_slot import Slot
from forebay.api.lane_socket import becomes_socket
from forebay.api.lane_transport import LingeringTransport
from forebay.api.problems import CLOSE, Answer, closing, detailed_of, problem
from forebay.core.caching import USUAL_ASK
from forebay.core.settings import ServerSettings

log = logging.getLogger("forebay.api")

_ASGI, _LANE, _IGNORED = 0, 1, 2


class _Flow(FlowControl):
    """uvicorn's, but nothing is read from a client that does not read, nor while ASGI requests wait for their turn."""

    pipeline: deque[Any]

    def resume_reading(self) -> None:
        if not self.write_paused and not self.pipeline:
            super().resume_reading()


class Lane(HttpToolsProtocol):
    """A connection. Made by uvicorn for each one; `lane_protocol` binds the class to a server."""

    inference: Inference
    settings: ServerSettings
    by_path: dict[bytes, Endpoint]
    jobs: Jobs | None
    jobs_by_path: dict[bytes, Endpoint]
    heads: ResponseHeads
    compress_from_bytes: int
    slots: deque[Slot]
    transport: LingeringTransport
    flow: _Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = deque()
        self.slot: Slot | None = None  # the one whose body is arriving
        self.running: RequestResponseCycle | None = None  # the last one that an ASGI task was started for
        self.mode = _ASGI
        self.in_message = self.in_body = False
        self.since_s = 0.0  # when the present wait (for a head, a body, the next request) was first seen; 0: not yet
        self.quick = True  # nothing is to be seen to after an answer but the answer
        self.deaf = False  # nothing is parsed any more
        self.barren: tuple[Any, int] = (None, 0)  # headers of a message, and its bytes since there was any of its body
        self.unsent_bytes = 0
        self.host = b""  # the last one that was seen to be one
        self.leaving = Leaving()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(LingeringTransport(transport, self._may_be_sending))
        self.flow = _Flow(self.transport)
        self.flow.pipeline = self.pipeline

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse what arrived. Whatever goes wrong in here costs this connection, never the loop."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        while not self.deaf:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                if becomes_socket(self):
                    return
                # Answered as if it had not asked (RFC 9110, 7.8). The parser has skipped the body: it begins again.
                data = memoryview(data)[stop.args[0] :]
                self._begin_again()
                continue
            except httptools.HttpParserCallbackError as error:
                self.fail(error)
            except httptools.HttpParserError as error:
                self._malformed(str(error))
            if self.in_message:
                self._watch_length(len(data))
            return

    def on_message_begin(self) -> None:
        """A request line begins."""
        self.url = b""
        self.headers = []
        self.mode = _ASGI
        self.in_message, self.in_body = True, False
        self.since_s = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: into the lane, or the ordinary way."""
        self.in_body = True
        self.since_s = 0.0
        if (endpoint := self.by_path.get(self.url)) is not None:
            taken = self._take(endpoint, None)
        else:
            taken = (endpoint := self.jobs_by_path.get(self.url)) is not None and self._take(endpoint, ANONYMOUS)
        if not taken:
            self._decline()

    def _take(self, endpoint: Endpoint, tenant: str | None) -> bool:
        """Whether the lane has taken the request whose head is complete."""
        parser, slots = self.parser, self.slots
        if parser.get_method() != b"POST" or self.pipeline:
            return False
        if not slots and self.cycle is not None and not self.cycle.response_complete:
            return False  # an ASGI request is ahead: its way keeps the order
        keep_alive = parser.should_keep_alive()
        length, hosts, told = -1, 0, False
        slot = Slot(self, endpoint, keep_alive, self.headers)
        authorization: bytes | None = None
        for name, value in self.headers:
            if name in WATCHED:
                if name == b"content-length":
                    length = int(value)
                elif name == b"host":
                    hosts += 1
                    if value != self.host:
                        if not is_host(value):
                            return False
                        self.host = value
                elif name == b"content-type":
                    slot.content_type = value
                elif name == b"authorization":
                    authorization = value
                elif name == b"inference-header-content-length":
                    slot.header_length = value
                elif name == b"connection":
                    told = True
                elif not slot.heeds(name):
                    return False
        # The parser spells a version slowly. HTTP/1.0 keeps alive only where it says so; 1.1 ends only where it does.
        if (told or not keep_alive) and parser.get_http_version() != "1.1":
            return False
        inference = self.inference
        if length < 0 or length > inference.server.max_body_bytes or hosts != 1:
            return False
        self.cycle = slot  # type: ignore[assignment]
        slots.append(slot)
        try:
            if inference.guarded:
                slot.caller = caller = inference.gate.enter(authorization)
                tenant = caller if tenant is not None else None
            if endpoint.published.state != "ready":
                (inference.admit if tenant is None else inference.admit_job)(endpoint)
        except Exception as error:
            self.mode = _IGNORED
            slot.finish(endpoint.refuse(error) if tenant is None else detailed_of(error))
        else:
            self.mode = _LANE
            slot.tenant = tenant
            self.slot = slot
        return True

    def _decline(self) -> None:
        """uvicorn's own way, from the beginning of the message."""
        if self.deaf or self.parser.should_upgrade():
            self.mode = _IGNORED
            return
        version = self.parser.get_http_version()
        refusal = refusal_of(self.url, self.headers, version)
        if refusal is not None:
            self.mode = _IGNORED
            self.reject(refusal)
            return
        self.quick = not self.slots
        # Copied, since trailers arrive in the same list and are no headers (RFC 9110, 6.5.1).
        url, headers = self.url, [(name, value.rstrip(b" \t")) for name, value in self.headers]
        super().on_message_begin()
        self.scope["headers"] = headers
        self.scope[LEAVING] = self.leaving  # type: ignore[literal-required]
        # Not of HTTP/1.0, whose clients know no 1xx (RFC 9110, 10.1.1 and 15.2).
        asks = version == "1.1" and any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        self.expect_100_continue = asks
        try:
            self.url = origin_form(url)
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, ValueError):
            self.mode = _IGNORED
            self._malformed("the request target is invalid")

    def _begin_again(self) -> None:
        """A parser that wants to leave HTTP is replaced; the new one is given the same head without `Upgrade`."""
        method, version, headers = self.parser.get_method(), self.parser.get_http_version(), self.headers
        if method == b"CONNECT":
            self.reject(closing(problem("method_not_allowed", "CONNECT is not allowed here")))
        else:
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.data_received(unasked(method, self.url, version, headers))

    def _watch_length(self, size_bytes: int) -> None:
        """A head, a chunk's extensions or trailers that do not end. What came together with their beginning is free."""
        headers, barren_bytes = self.barren
        if headers is not self.headers or (self.in_body and self.mode != _ASGI):
            self.barren = (self.headers, 0)
        elif barren_bytes + size_bytes > MOST_HEAD_BYTES:
            self.reject(closing(problem("head_too_large", f"the head is larger than {MOST_HEAD_BYTES} bytes")))
        else:
            self.barren = (headers, barren_bytes + size_bytes)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        slot = self.slot
        if slot is not None:
            if not slot.body:
                slot.body = body
            else:
                slot.more(body)
        elif self.mode == _ASGI:
            self.barren = (None, 0)
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
                if slot.tenant is not None:
                    assert self.jobs is not None
                    self.jobs.post(endpoint, slot.asked(slot.tenant), slot.accepted)
                elif len(body) > self.settings.decode_off_loop_bytes and endpoint.slow_to_decode(slot.header_length):
                    given = (slot.content_type, slot.header_length, slot.submit)
                    done = slot.done if endpoint.recall is None else slot.answered
                    endpoint.read_elsewhere(body, _now(), done, *given)
                elif endpoint.decode is not None and slot.header_length is None:
                    request = slot.request = endpoint.decode(body, _now(), slot.done)
                    if slot.caller:
                        request.tenant = slot.caller
                    endpoint.engine.submit(request)
                elif endpoint.fresh is None or slot.asks or slot.caller or slot.header_length is not None:
                    slot.read()
                else:
                    request = slot.request = endpoint.fresh(body, _now(), slot.answered)
                    request.cache = USUAL_ASK
                    endpoint.engine.submit(request)
            except Exception as error:
                slot.finish(endpoint.refuse(error))
        elif self.mode == _ASGI:
            super().on_message_complete()
            return
        if len(self.slots) >= self.settings.max_pipelined:
            self.quick = False
            self.flow.pause_reading()

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
        elif self.flow.read_paused and len(slots) < self.settings.max_pipelined:
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
        self.since_s = 0.0  # what arrived meanwhile was late through us
        if len(self.slots) < self.settings.max_pipelined:
            self.flow.resume_reading()

    # -- endings ------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: its work is dropped."""
        for slot in self.slots:
            slot.abandon()
        self.slots.clear()
        self.pipeline.clear()
        self.leaving.happen()
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.transport.forget()
        self.cycle = self.slot = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        """The server stops. A connection that is not being answered ends at once."""
        super().shutdown()
        if self.transport.is_closing():
            self.transport.close()

    def _may_be_sending(self) -> bool:
        """At the close: whether the client may not have finished. Nothing more is parsed."""
        unheeded = self.deaf or self.mode == _IGNORED or self.flow.read_paused
        self.deaf = True
        return self.in_message or unheeded or bool(self.slots or self.pipeline)

    def fail(self, error: Exception) -> None:
        """A fault of ours: it costs this connection."""
        self.deaf = True
        log.error("a connection is closed after an internal error", exc_info=error)
        self.transport.abort()

    def _malformed(self, reason: str) -> None:
        if not self.deaf:
            self.reject(malformed(reason))

    def reject(self, answer: Answer) -> None:
        """A last answer, after those that are ahead of it. Nothing more is read."""
        self.deaf = True
        self.quick = False
        # A parser that is at work goes on to the end of what it was given.
        self.by_path = self.jobs_by_path = {}
        cycle = self.cycle
        if self.in_message and self.in_body and self.mode != _IGNORED:
            self._answer_instead(answer)
        elif self.pipeline or (not self.slots and cycle is not None and not cycle.response_complete):
            self.cycle = self._last_cycle()
            self.pipeline.appendleft((self.cycle, answering(answer)))
        else:
            self.cycle = slot = Slot(self, None, keep_alive=False)  # type: ignore[assignment]
            self.slots.append(slot)
            slot.finish(answer)

    def _answer_instead(self, answer: Answer) -> None:
        """The message whose body is arriving cannot be completed: this is its answer, unless it has one already."""
        cycle = self.cycle
        if self.slot is not None:
            self.slot.finish(answer)
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.cycle = self._last_cycle()
            self.pipeline[0] = (self.cycle, answering(answer))
        else:
            if not cycle.response_started:
                head = self.heads.of(answer, self.server_state.default_headers)
                self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(answer.body), answer.body))
            cycle.disconnected = True
            cycle.message_event.set()
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def _last_cycle(self) -> RequestResponseCycle:
        """Stands in the queue of ASGI requests for the last answer. Its arguments are those that `usable` checks."""
        scope: Any = {"type": "http", "method": "POST", "path": "", "headers": []}
        logs, defaults = (self.logger, self.access_logger, False), self.server_state.default_headers
        how: Any = (asyncio.Event(), False, False, self.on_response_complete)
        return RequestResponseCycle(scope, self.transport, self.flow, *logs, defaults, *how)


def lane_protocol(inference: Inference, settings: ServerSettings, jobs: Jobs | None = None) -> type[Lane]:
    """The connection class of one server. With `express_lane = off` it takes no request, but still keeps time."""
    takes = settings.express_lane == "auto"
    members = {
        "inference": inference,
        "settings": settings,
        "by_path": inference.by_path if takes else {},
        "jobs": jobs,
        "jobs_by_path": inference.jobs_by_path if takes and jobs is not None else {},
        "heads": ResponseHeads(),
    }
    return type("ServerLane", (Lane,), {**members, "compress_from_bytes": inference.compress_from_bytes})
