"""The two ways through the server, and a driver that feeds both the same bytes and looks for what is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import uvicorn
from tests.differential.double import ShuffledEngine
from tests.differential.replies import Reply, parse
from tests.differential.transport import FakeTransport
from tests.unit.api.conftest import build_engines
from uvicorn.server import ServerState

from forebay.api.app import create_app
from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.api.lane import Lane, lane_protocol
from forebay.core.settings import ServerSettings

DATE = (b"date", b"Tue, 24 Nov 2026 16:00:00 GMT")
MOST_TURNS = 20_000
Ending = Literal["eof", "reset"]


class Outcome(NamedTuple):
    """What a client has seen of one connection."""

    replies: list[Reply]
    closed: bool
    """Whether the server closed it."""


class LeakError(AssertionError):
    """Something is left of a connection that is gone."""


async def settle() -> None:
    """Until nothing can run any more but timers."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("the event loop does not come to rest")


class Way:
    """One server without a socket: with the express lane ("auto") or without ("off")."""

    def __init__(self, lane: Literal["auto", "off"], keys: Keys | None = None, seed: int = 0, **server: Any) -> None:
        self.settings = ServerSettings(express_lane=lane, **server)
        order = random.Random(seed)
        self.engines = {name: ShuffledEngine(base, order) for name, base in build_engines().items()}
        self.seconds = 0.0
        gate = Gate(keys or Keys({}), Quota(self.settings.requests_per_s, lambda: self.seconds))
        self.inference = Inference(self.engines, self.settings, gate)
        self.app = create_app(self.inference, metrics_text=lambda: b"up 1\n", ready=list)
        self.config = uvicorn.Config(self.app, log_config=None, access_log=False, lifespan="off", ws="none")
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = [DATE]
        self.protocol = lane_protocol(self.inference, self.settings)

    def connect(self) -> tuple[Lane, FakeTransport]:
        """A connection that is open."""
        loop = asyncio.get_running_loop()
        connection = self.protocol(config=self.config, server_state=self.state, app_state={}, _loop=loop)
        transport = FakeTransport(connection)
        connection.connection_made(transport)
        return connection, transport

    def hold(self, holding: bool) -> None:
        """Keep all answers back, or let them go."""
        for engine in self.engines.values():
            engine.holding = holding
            if not holding:
                engine.release()

    async def exchange(
        self,
        pieces: Sequence[bytes],
        *,
        held: bool = False,
        ending: Ending = "eof",
        hurry: random.Random | None = None,
    ) -> Outcome:
        """Sends the pieces, each once the one before has come to rest, then ends the connection.

        held: the engines answer only when everything has been sent that the server was willing to read. hurry: pieces
        follow each other after a few turns of the event loop, whatever is still under way.
        """

        async def rest() -> None:
            if hurry is None:
                await settle()
            else:
                for _ in range(hurry.randint(0, 4)):
                    await asyncio.sleep(0)

        self.hold(held)
        connection, transport = self.connect()
        waiting = list(reversed(pieces))
        while waiting and not connection.transport.is_closing() and (transport.reading or held or hurry):
            if transport.reading:
                connection.data_received(waiting.pop())
            elif ending == "reset" and held:
                break
            else:
                self.hold(held := False)
                await settle()
            await rest()
        if ending != "reset":
            self.hold(False)
            await settle()
        while waiting and transport.reading and not connection.transport.is_closing():
            connection.data_received(waiting.pop())
            await settle()
        closed = connection.transport.is_closing()
        await self.end(connection, transport, ending)
        if waiting and not closed and ending != "reset":
            raise LeakError("the server stopped reading for good")
        return Outcome(parse(bytes(transport.written)), closed)

    async def end(self, connection: Lane, transport: FakeTransport, ending: Ending = "eof") -> None:
        """The client goes; nothing of the connection may stay."""
        if ending == "reset":
            transport.reset()
        else:
            transport.close()
        transport.drain()
        await settle()
        self.check_empty(connection)

    def check_empty(self, connection: Lane) -> None:
        """Raises `LeakError`."""
        left: dict[str, Any] = {
            "slots": list(connection.slots),
            "connections": self.state.connections,
            "server tasks": self.state.tasks,
            "requests": [request for engine in self.engines.values() for request in engine.waiting],
            "tasks": asyncio.all_tasks() - {asyncio.current_task()},
            "timers": [t for t in asyncio.get_running_loop()._scheduled if not t.cancelled()],  # type: ignore[attr-defined]
        }
        left = {name: things for name, things in left.items() if things}
        if left:
            raise LeakError(str(left))
