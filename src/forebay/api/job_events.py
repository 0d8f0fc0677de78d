"""The events of one job as server-sent events: `GET /v1/jobs/{id}/events`.

Source of the form: https://html.spec.whatwg.org/multipage/server-sent-events.html. The id of an event is its sequence,
so a client that comes back with Last-Event-ID is sent what it has not had. One that has had all is answered 204, upon
which an EventSource stops coming back.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forebay.api import job_openapi
from forebay.api.endpoint import log_unforeseen
from forebay.api.infer_routes import until_gone
from forebay.api.inference import LEAVING, Leaving
from forebay.api.job_hub import Seen
from forebay.api.job_streams import Follow, Item, Streams, known_job, last_event_id, one_line
from forebay.api.problems import Answer, detailed_of
from forebay.api.routing import add
from forebay.core.errors import AdmissionError, DependencyError, RequestError
from forebay.jobs.record import TERMINAL

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_KEEP_ALIVE = b": keep-alive\n\n"


def add_job_events(app: FastAPI, streams: Streams) -> None:
    """Adds the operation."""

    async def events(http: HttpRequest) -> Answer | Response:
        tenant = streams.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
        if http.scope.get("http_version") == "1.0":
            raise RequestError("events need HTTP/1.1", code="unsupported")
        after = last_event_id(http)
        record = await known_job(streams, http.path_params["id"], tenant)
        if http.method == "HEAD":
            return Answer(200, _HEADERS, b"")
        if streams.closing:
            raise AdmissionError("the server is shutting down", code="draining")
        if record.state in TERMINAL and after >= record.sequence:
            return Answer(204, (), b"")
        follow = Follow(record.spec.id, min(after, record.sequence))
        follow.told(record.sequence, record.state)
        return JobEvents(streams, http, follow)

    _, path, summary, responses, extra = job_openapi.events()
    add(app, path, events, responses, summary, "jobs", extra=extra, refuse=detailed_of)


class JobEvents(Response):
    """A stream of events that writes itself."""

    def __init__(self, streams: Streams, http: HttpRequest, follow: Follow) -> None:
        super().__init__()
        self._streams = streams
        self._leaving: Leaving | None = http.scope.get(LEAVING)
        self._base: str = http.scope.get("root_path", "")
        self._follow = follow
        self._waker: asyncio.Future[None] | None = None
        self._woken = True
        self._sending: asyncio.Task[object] | None = None
        """The one that waits for the client to read."""
        self._patience = 2
        self._alive = b""
        self._gone = False
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the job has ended, the client has left, or the server shuts down."""
        if self._leaving is not None and self._leaving.happened:
            return
        watching = None if self._leaving is not None else asyncio.ensure_future(until_gone(receive))
        try:
            self._streams.hub.subscribe(self._follow.id, self)
            self._streams.join(self)
            if watching is not None:
                watching.add_done_callback(lambda _: self._leave())
            elif self._leaving is not None:
                self._leaving.tell.add(self._leave)
            await self._write(send)
        except asyncio.CancelledError:
            if self._patience:
                raise
        finally:
            self._streams.hub.unsubscribe(self._follow.id, self)
            self._streams.leave(self)
            if watching is not None:
                watching.cancel()
            elif self._leaving is not None:
                self._leaving.tell.discard(self._leave)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        body = b"retry: %d\n\n" % self._streams.retry_ms()
        more = True
        while more and not self._gone:
            if self._woken and not body:
                body, more = await self._next()
            if body or not more:
                self._sending = None if self._leaving is not None else asyncio.current_task()
                await send({"type": "http.response.body", "body": body, "more_body": more})
                self._sending, self._patience = None, 2
                body = b""
            elif not self._woken:
                self._waker = asyncio.get_running_loop().create_future()
                await self._waker
                self._waker = None

    async def _next(self) -> tuple[bytes, bool]:
        """What is to be written now, and whether more may follow."""
        self._woken = False
        alive, self._alive = self._alive, b""
        if self._over or self._streams.closing:
            return b"retry: %d\n\n" % self._streams.retry_ms(), False
        if not self._follow.behind:
            return alive, True
        try:
            items = await self._follow.fetch(self._streams, self._base)
        except DependencyError:
            return alive, True  # the hub says how far the job is once its store is there again
        except Exception as error:
            if not isinstance(error, RequestError):
                log_unforeseen(error)
            return b"event: problem\ndata: %b\n\n" % one_line(detailed_of(error).body), False
        self._woken = self._woken or self._follow.behind
        return b"".join(map(_written, items)), not self._follow.over

    def _wake(self) -> None:
        self._woken = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _leave(self) -> None:
        self._gone = True
        self._wake()

    # -- told by others -----------------------------------------------------------------------------------------------

    def told(self, id: str, sequence: int, seen: Seen) -> None:
        """The hub says how far the job is."""
        if self._follow.told(sequence, seen):
            self._wake()

    def failed(self, id: str, error: DependencyError) -> None:
        """The hub says no more: the client may come back."""
        self.end()

    def end(self) -> None:
        """The server shuts down."""
        self._over = True
        self._wake()

    def beat(self) -> None:
        """Keep it alive. A client that takes nothing is given up; in the express lane that is the lane's affair."""
        if self._sending is None:
            self._alive = _KEEP_ALIVE
            self._wake()
            return
        self._patience -= 1
        if not self._patience:
            self._sending.cancel()


def _written(item: Item) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (item.sequence, item.kind.encode(), item.data)
