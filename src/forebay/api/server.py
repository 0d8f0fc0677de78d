"""The web process: engines, the app and uvicorn, from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn
from fastapi import FastAPI

from forebay.api.app import create_app
from forebay.api.auth import Gate
from forebay.api.inference import Inference
from forebay.api.lane import lane_protocol, usable
from forebay.api.lane_time import SWEEP_S, sweep_connections
from forebay.core.errors import SetupError
from forebay.core.settings import ServerSettings
from forebay.engine.engine import Engine
from forebay.engine.setup import Plan, start_engine
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics

log = logging.getLogger("forebay.api")


class Server(uvicorn.Server):
    """uvicorn, told to drain first: ready turns false before the listener closes."""

    def __init__(self, config: uvicorn.Config, web: Web) -> None:
        super().__init__(config)
        self._web = web

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, finish what was admitted, then close."""
        self._web.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT begin the drain. uvicorn would raise them again afterwards, before engines are closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def _sweep(server: uvicorn.Server) -> None:
    """Looks for slow and idle clients, as long as the server runs."""
    while True:
        await asyncio.sleep(SWEEP_S)
        sweep_connections(server.server_state.connections)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound but not listening yet, so that a port in use is known before models are loaded.

    Raises `SetupError` that names the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SetupError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return listener


class Web:
    """One web process with the engines of its models."""

    def __init__(self, settings: ServerSettings, gate: Gate, plans: Sequence[Plan]) -> None:
        self._settings = settings
        self._gate = gate
        self._plans = plans
        self._engines: dict[str, Engine] = {}
        self._metrics = Metrics()
        self._draining = False

    async def serve(self) -> None:
        """Load, warm up, listen, until SIGTERM or SIGINT. Raises `SetupError` where the start fails."""
        listener = bind(self._settings.host, self._settings.port)
        try:
            await self._load()
            # What start-up made stays: a collection need not look at it again while requests wait.
            gc.collect()
            gc.freeze()
            inference = Inference(self._engines, self._settings, self._gate)
            app = create_app(inference, metrics_text=self._metrics.text, ready=self._not_ready)
            await self._listen(app, inference, listener)
        finally:
            await self._close()

    async def _load(self) -> None:
        # One after the other: models measured at the same time would measure each other.
        for plan in self._plans:
            engine = Engine(plan)
            self._engines[engine.name] = engine
            self._metrics.add(engine.metrics)
            await start_engine(engine)

    async def _listen(self, app: FastAPI, inference: Inference, listener: socket.socket) -> None:
        settings = self._settings
        unusable = usable()
        if unusable:
            log.warning("the express lane is off: %s", unusable, extra=fields(reason=unusable))
        config = uvicorn.Config(
            app,
            http=lane_protocol(inference, settings) if not unusable else "httptools",
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, int(settings.keep_alive_s)),
            timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
        )
        server = Server(config, self)
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = ", ".join(self._engines)
        log.info("serving %s at %s (docs at %s/docs)", names, address, address, extra=fields(host=host, port=port))
        sweeping = asyncio.create_task(_sweep(server))
        try:
            await server.serve([listener])
        finally:
            sweeping.cancel()

    def _not_ready(self) -> list[str]:
        if self._draining:
            return ["the server is shutting down"]
        return [f"model {e.name}: {e.state}: {e.reason}" for e in self._engines.values() if e.state != "ready"]

    def drain(self) -> None:
        """Ready turns false; new requests are refused; admitted ones still run."""
        self._draining = True
        for engine in self._engines.values():
            engine.drain()

    async def _close(self) -> None:
        await asyncio.gather(*(engine.close(self._settings.drain_timeout_s) for engine in self._engines.values()))
