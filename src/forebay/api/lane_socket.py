"""A connection that has become a WebSocket: uvicorn's protocol, which can also let go of a client that does not read.

Like `lane.py` this knows uvicorn's internals (0.54).
"""

from __future__ import annotations

from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from forebay.api.inference import DROP

LINGER_S = 5.0
"""How long a client may take for what was written before its connection ends."""


class LaneSocket(WebSocketsSansIOProtocol):
    """A WebSocket. Its scope holds, under `DROP`, what closes it without waiting for the client."""

    def handle_connect(self, event: Request) -> None:
        """The client has asked for it."""
        super().handle_connect(event)
        if not self.handshake_complete:
            scope: Any = self.scope
            scope[DROP] = self.drop

    async def send(self, message: ASGISendEvent) -> None:
        """What the endpoint says."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # by a refusal, for which uvicorn would log an error

    def start_keepalive(self) -> None:
        """The handshake is done, and what it was about need not be kept."""
        super().start_keepalive()
        del self.request, self.response

    def drop(self, code: int, reason: str) -> None:
        """Close, with a reason where the client reads so far, and at all events soon."""
        if self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(code, reason)
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
        self._end_soon()

    def keepalive_timeout(self) -> None:
        """The client has not answered a ping."""
        super().keepalive_timeout()
        self._end_soon()

    def shutdown(self) -> None:
        """The server stops: 1012."""
        super().shutdown()
        self._end_soon()

    def _end_soon(self) -> None:
        self.stop_keepalive()
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)


def becomes_socket(lane: Any) -> bool:
    """Whether a connection that asks for an upgrade is a WebSocket's from now on; not while an answer is owed."""
    path = lane.url.partition(b"?")[0]
    if not (path.startswith(b"/v1/") and path.endswith(b"/ws")):
        return False
    if not lane._should_upgrade() or (lane.cycle is not None and not lane.cycle.response_complete):
        return False
    lane.deaf = True
    lane.scope = {"method": lane.parser.get_method().decode(), "headers": lane.headers}
    lane.transport.forget()
    lane.transport = lane.transport.bare
    lane.handle_websocket_upgrade()
    return True
