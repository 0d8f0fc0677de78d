"""The events of jobs over a WebSocket: `/v1/jobs/{id}/ws` follows one, `/v1/ws` as many as the client asks for.

Each event is a JSON message with its `type` and the job's `id`. A browser cannot send an Authorization header with a
WebSocket; it offers two subprotocols instead, `forebay.jobs` and `forebay.key.KEY`, and the server takes the first.
(A key in the URL would end up in logs.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from fastapi import FastAPI
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from forebay.api.auth import from_here
from forebay.api.endpoint import log_unforeseen
from forebay.api.inference import DROP
from forebay.api.job_hub import Seen
from forebay.api.job_streams import MOST_BYTES, Follow, Item, Streams, known_job, last_event_id, record_of
from forebay.api.problems import detailed_of, problem_of
from forebay.api.routing import response_of
from forebay.core.errors import AdmissionError, DependencyError, ForebayError, RequestError
from forebay.jobs.ids import is_id, parse_id
from forebay.telemetry.logs import fields

SUBPROTOCOL = "forebay.jobs"
KEY_PREFIX = "forebay.key."
MOST_JOBS = 10_000
"""That one connection may follow."""
MOST_JOBS_A_MESSAGE = 1000
MOST_MESSAGE_BYTES = 128 << 10
"""Of what a client sends: the largest list of jobs fits. The server is to be told of it (uvicorn's ws_max_size)."""

_NORMAL, _INTERNAL, _RESTART, _TRY_LATER = 1000, 1011, 1012, 1013
_AT_ONCE = 16
"""Jobs whose events are fetched together."""

log = logging.getLogger("forebay.api")

_Jobs = Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_JOBS_A_MESSAGE)]


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe", forbid_unknown_fields=True):
    """Follow jobs; `after`: by the job's id, the sequence of the last event that the client has had of it."""

    jobs: _Jobs
    after: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)


class Unsubscribe(msgspec.Struct, tag_field="type", tag="unsubscribe", forbid_unknown_fields=True):
    """Follow them no more."""

    jobs: _Jobs


_asked = msgspec.json.Decoder(Subscribe | Unsubscribe)
_encode = msgspec.json.Encoder().encode


def add_job_sockets(app: FastAPI, streams: Streams) -> None:
    """Adds both endpoints."""

    async def one(socket: WebSocket) -> None:
        async def begin(following: JobSocket) -> None:
            after = last_event_id(socket)
            record = await known_job(streams, socket.path_params["id"], following.tenant)
            following.only = record.spec.id
            following.follow(record.spec.id, min(after, record.sequence))

        await _serve(streams, socket, begin)

    async def many(socket: WebSocket) -> None:
        async def begin(following: JobSocket) -> None:
            pass

        await _serve(streams, socket, begin)

    app.router.routes.append(WebSocketRoute("/v1/jobs/{id}/ws", one))
    app.router.routes.append(WebSocketRoute("/v1/ws", many))


async def _serve(streams: Streams, socket: WebSocket, begin: Callable[[JobSocket], Awaitable[None]]) -> None:
    """Refuse the handshake with the answer that HTTP would give, or serve the connection to its end."""
    try:
        authorization, subprotocol = _credentials(socket)
        following = JobSocket(streams, socket, streams.gate.enter(authorization), authorization)
        if not from_here(socket.headers, keys=streams.gate.keyed):
            raise RequestError("a web page of another site may not follow jobs", code="forbidden")
        if streams.closing:
            raise AdmissionError("the server is shutting down", code="draining")
        await begin(following)
    except Exception as error:
        if not isinstance(error, ForebayError):
            log_unforeseen(error)
        if "websocket.http.response" in socket.scope.get("extensions", {}):
            await socket.send_denial_response(response_of(detailed_of(error)))
        else:
            await socket.close()
        return
    await following.run(subprotocol)


def _credentials(socket: WebSocket) -> tuple[bytes | None, str | None]:
    """The Authorization header's value, or what stands for it, and the subprotocol to take. Raises `RequestError`."""
    offered: list[str] = socket.scope["subprotocols"]
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
    if offered and subprotocol is None:
        raise RequestError(f"the subprotocols must hold {SUBPROTOCOL!r}, beside {KEY_PREFIX}KEY where a key is needed")
    header = socket.headers.get("authorization")
    if header is not None:
        return header.encode("latin-1"), subprotocol
    for name in offered:
        if name.startswith(KEY_PREFIX):
            return b"Bearer " + name.removeprefix(KEY_PREFIX).encode("latin-1"), subprotocol
    return None, subprotocol


class JobSocket:
    """One connection. Its own coroutine waits for what the client says; another runs while there is something to send,
    so that an idle connection costs one of them."""

    __slots__ = (
        "_authorization",
        "_base",
        "_closed",
        "_due",
        "_ending",
        "_follows",
        "_patience",
        "_sender",
        "_sending",
        "_socket",
        "_streams",
        "only",
        "tenant",
    )

    def __init__(self, streams: Streams, socket: WebSocket, tenant: str, authorization: bytes | None) -> None:
        self.tenant = tenant
        self.only = ""
        """The job with whose end the connection ends."""
        self._authorization = authorization
        self._streams = streams
        self._socket = socket
        self._base: str = socket.scope.get("root_path", "")
        self._follows: dict[str, Follow] = {}
        self._due: dict[str, None] = {}
        """Jobs of which there may be something to send."""
        self._sender: asyncio.Task[None] | None = None
        self._sending = 0
        self._patience = 2
        self._ending = False
        self._closed = False

    async def run(self, subprotocol: str | None) -> None:
        """Serve the client until one of both ends it."""
        self._streams.join(self)
        try:
            await self._socket.accept(subprotocol=subprotocol)
            self._listen(list(self._follows))
            while (message := await self._socket.receive())["type"] != "websocket.disconnect":
                await self._take(message.get("text"))
        except WebSocketDisconnect:
            pass
        finally:
            self._streams.leave(self)
            for id in list(self._follows):
                self._forget(id)
            if self._sender is not None:
                self._sender.cancel()

    def follow(self, id: str, after: int) -> None:
        """From now on, or from another event on."""
        self._follows[id] = Follow(id, after)

    def _listen(self, ids: list[str]) -> None:
        try:
            for id in ids:
                self._streams.hub.subscribe(id, self)
        except DependencyError:
            self.end()

    def _forget(self, id: str) -> None:
        if self._follows.pop(id, None) is not None:
            self._due.pop(id, None)
            self._streams.hub.unsubscribe(id, self)

    # -- what the client says -----------------------------------------------------------------------------------------

    async def _take(self, text: str | None) -> None:
        try:
            if text is None or self.only:
                raise RequestError("no message is expected here" if self.only else "messages are JSON text")
            asked = _asked.decode(text)
            self._streams.gate.enter(self._authorization)
            if isinstance(asked, Unsubscribe):
                for id in asked.jobs:
                    self._forget(id.lower())
                await self._send(_encode({"type": "unsubscribed", "jobs": asked.jobs}))
            else:
                await self._subscribe(asked)
        except msgspec.DecodeError as error:
            await self._send_error(RequestError(f"the message is not as expected: {error}"))
        except ForebayError as error:
            await self._send_error(error)

    async def _subscribe(self, asked: Subscribe) -> None:
        """Tells of each job that cannot be followed; then follows the others. Raises `RequestError` for too many."""
        # Case does not matter in a UUID (RFC 9562, 4). Events carry the id as it is kept.
        ids = dict.fromkeys(id.lower() for id in asked.jobs)
        after = {id.lower(): sequence for id, sequence in asked.after.items()}
        if len(self._follows.keys() | ids.keys()) > MOST_JOBS:
            raise RequestError(f"one connection may follow {MOST_JOBS} jobs; open another")
        await self._streams.ready()
        looks = await self._streams.hub.reader.read([id for id in ids if is_id(id)], output=False)
        found = dict(zip((id for id in ids if is_id(id)), looks, strict=True))
        taken: list[str] = []
        for id in ids:
            try:
                record = record_of(found.get(parse_id(id)), id, self.tenant)
            except RequestError as error:
                await self._send_error(error, id)
            else:
                self._forget(id)
                self.follow(id, min(after.get(id, 0), record.sequence))
                taken.append(id)
        await self._send(_encode({"type": "subscribed", "jobs": taken}))
        self._listen(taken)

    # -- what is told to the client -----------------------------------------------------------------------------------

    def told(self, id: str, sequence: int, seen: Seen) -> None:
        """The hub says how far a job is."""
        follow = self._follows.get(id)
        if follow is not None and follow.told(sequence, seen):
            self._due[id] = None
            self._begin()

    def failed(self, id: str, error: DependencyError) -> None:
        """The hub says no more: the client may come back."""
        self.end()

    def end(self) -> None:
        """The server shuts down."""
        self._ending = True
        self._begin()

    def beat(self) -> None:
        """A client that takes nothing is given up. (The server's pings keep the connection alive.)"""
        if not self._sending:
            return
        self._patience -= 1
        if not self._patience:
            log.info("a client that does not read its events is dropped", extra=fields(reason="slow reader"))
            drop: Callable[[int, str], None] | None = self._socket.scope.get(DROP)
            if drop is not None:
                drop(_TRY_LATER, "events are not read")

    def _begin(self) -> None:
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_due())

    async def _send_due(self) -> None:
        try:
            while self._due and not self._ending:
                ids = list(self._due)[:_AT_ONCE]
                for id in ids:
                    del self._due[id]
                await asyncio.gather(*(self._advance(id, len(ids)) for id in ids))
            if self._ending:
                await self._send(_encode({"type": "retry", "retry_ms": self._streams.retry_ms()}))
                await self._close(_RESTART, "come back later")
        except WebSocketDisconnect:
            pass  # `run` ends too
        except Exception as error:
            log_unforeseen(error)
            await self._close(_INTERNAL, "internal error")
        finally:
            self._sender = None

    async def _advance(self, id: str, among: int) -> None:
        """Send what is new of a job. Those that are sent `among` others share what may be held for one client."""
        follow = self._follows.get(id)
        if follow is None:
            return
        try:
            items = await follow.fetch(self._streams, self._base, MOST_BYTES // among)
        except DependencyError:
            return  # the hub says how far the job is once its store is there again
        except RequestError as error:
            items = []
            await self._send_error(error, id)
        for item in items:
            await self._send(_message(id, item))
        if self._follows.get(id) is not follow:
            return
        if follow.over:
            self._forget(id)
            if self.only:
                await self._close(_NORMAL)
        elif follow.behind:
            self._due[id] = None

    async def _send_error(self, error: ForebayError, id: str = "") -> None:
        about = b'"id":%b,' % _encode(id) if id else b""
        await self._send(b'{"type":"error",%b%b' % (about, problem_of(error).body[1:]))

    async def _send(self, message: bytes) -> None:
        """Waits while the client does not read. Raises `WebSocketDisconnect` where it has left."""
        if self._closed:
            return
        self._sending += 1
        try:
            await self._socket.send({"type": "websocket.send", "text": message.decode()})
        finally:
            self._sending -= 1
            self._patience = 2

    async def _close(self, code: int, reason: str = "") -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.close(code, reason)
            self._streams.leave(self)


def _message(id: str, item: Item) -> bytes:
    if item.kind != "done":
        return item.data
    return b'{"type":"done","id":"%b","sequence":%d,"job":%b}' % (id.encode(), item.sequence, item.data)
