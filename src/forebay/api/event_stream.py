"""A streamed answer as server-sent events: from the engine's callbacks to a client that may be slow, or leave.

Source of the form: https://html.spec.whatwg.org/multipage/server-sent-events.html. The engine never waits for a client:
events queue here up to a bound, beyond which the request is canceled and ends with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forebay.api.endpoint import Endpoint
from forebay.api.infer_routes import until_gone
from forebay.api.inference import LEAVING, Leaving
from forebay.api.problems import Answer
from forebay.api.routing import ClientGone
from forebay.core.errors import RequestError
from forebay.core.request import Listener, Outputs, Request

KEEP_ALIVE_S = 15.0
"""After so long without an event a comment is sent, so that nobody between takes the connection for dead."""
MAX_WAITING_BYTES = 1 << 20
"""Events that may wait for a client that reads slowly."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_KEEP_ALIVE = b": keep-alive\n\n"


class EventStream(Response):
    """The answer to one request, written as it is made. `submit` and `begin` it; then it is an ASGI app that writes."""

    def __init__(self, endpoint: Endpoint, http: HttpRequest) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._http = http
        self._leaving: Leaving | None = http.scope.get(LEAVING)
        self._watching: asyncio.Task[None] | None = None
        self._request: Request
        self._events: list[bytes] = []
        self._waiting_bytes = 0
        self._pieces = False
        self._ended = False
        self._gone = False
        self._refusal: Answer | None = None
        self._waker: asyncio.Future[bool] | None = None

    def submit(self, request: Request) -> None:
        """The request to be answered; its `on_done` is this stream's. Raises what the engine raises, `ClientGone`."""
        if self._leaving is not None and self._leaving.happened:
            raise ClientGone
        self._request = request
        request.listener = Listener(self._on_piece, self._on_progress)
        self._endpoint.engine.submit(request)

    async def begin(self) -> Answer | Response:
        """Wait for the first event. A request that fails before that is answered with its error. Raises
        `ClientGone`."""
        if self._leaving is not None:
            self._leaving.tell.add(self._leave)
        else:
            self._watching = asyncio.ensure_future(until_gone(self._http.receive))
            self._watching.add_done_callback(lambda _: self._leave())
        try:
            if not await self._wait():
                self._events.append(_KEEP_ALIVE)
        except BaseException:
            self._close()
            raise
        if self._gone or (self._refusal is not None and not self._events):
            self._close()
            if self._refusal is None:
                raise ClientGone
            return self._refusal
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the end, or until the client has left."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            more = True
            while more and not self._gone:
                more = not self._ended
                await send({"type": "http.response.body", "body": self._taken(), "more_body": more})
                if more and not await self._wait():
                    self._events.append(_KEEP_ALIVE)
        finally:
            self._close()

    def _taken(self) -> bytes:
        """All events that wait, and the error if that is the end."""
        if self._ended and self._refusal is not None:
            self._events.append(_data(self._refusal.body))
        body = b"".join(self._events)
        self._events.clear()
        self._waiting_bytes = 0
        return body

    async def _wait(self) -> bool:
        """Until there is something to do; False where there is nothing after `KEEP_ALIVE_S`."""
        if self._events or self._ended or self._gone:
            return True
        loop = asyncio.get_running_loop()
        self._waker = loop.create_future()
        timer = loop.call_later(KEEP_ALIVE_S, self._wake, False)
        try:
            return await self._waker
        finally:
            timer.cancel()

    def _wake(self, something: bool = True) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(something)

    # -- called by the engine -----------------------------------------------------------------------------------------

    def _on_piece(self, row: int, outputs: Outputs) -> None:
        self._pieces = True
        self._put(lambda form, request: _data(form.piece(request, outputs)))

    def _on_progress(self, row: int, fraction: float) -> None:
        self._put(lambda form, request: b"event: progress\n" + _data(form.progress(request, fraction)))

    def on_done(self, request: Request) -> None:
        if request.error is not None:
            self._refusal = self._endpoint.refuse(request.error)
        elif not self._pieces:
            self._put(lambda form, request: _data(form.whole(request)))
        self._ended = True
        self._wake()

    def _put(self, event_of: Callable[[Any, Request], bytes]) -> None:
        if self._ended or self._gone:
            return
        try:
            event = event_of(self._endpoint.generate, self._request)
        except Exception as error:
            self._break_off(error)
            return
        if self._events and self._waiting_bytes + len(event) > MAX_WAITING_BYTES:
            message = f"the client reads too slowly: more than {MAX_WAITING_BYTES} bytes of events waited for it"
            self._break_off(RequestError(message, code="request_canceled"))
            return
        self._events.append(event)
        self._waiting_bytes += len(event)
        self._wake()

    def _break_off(self, error: Exception) -> None:
        """End with an error of ours: nothing more is wanted from the engine."""
        self._refusal = self._endpoint.refuse(error)
        self._ended = True
        self._endpoint.engine.cancel(self._request)
        self._wake()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """The client has left."""
        self._gone = True
        if not self._ended:
            self._endpoint.engine.cancel(self._request)
        self._wake()

    def _close(self) -> None:
        if self._leaving is not None:
            self._leaving.tell.discard(self._leave)
        if self._watching is not None:
            self._watching.cancel()
        if not (self._ended or self._gone):
            self._gone = True
            self._endpoint.engine.cancel(self._request)


def _data(json: bytes) -> bytes:
    return b"data: %b\n\n" % json
