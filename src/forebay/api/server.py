"""The web process: the site and uvicorn, from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from forebay.api.inference import Inference
from forebay.api.job_socket import MOST_MESSAGE_BYTES
from forebay.api.jobs import Jobs
from forebay.api.lane import lane_protocol
from forebay.api.lane_check import usable
from forebay.api.lane_slot import is_arriving
from forebay.api.lane_socket import LaneSocket
from forebay.api.lane_time import SWEEP_S, sweep_connections
from forebay.core.errors import SetupError
from forebay.core.settings import ServerSettings
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.api")


class Served(Protocol):
    """What is served: everything of one server but the listening."""

    @property
    def settings(self) -> ServerSettings: ...
    @property
    def inference(self) -> Inference: ...
    @property
    def jobs(self) -> Jobs | None: ...

    async def start(self) -> None:
        """Make ready to serve. Raises `SetupError`."""
        ...

    def app(self) -> FastAPI: ...

    def not_ready(self) -> list[str]: ...

    def on_ended(self, call: Callable[[], object]) -> None:
        """Call this whenever an engine has ended."""
        ...

    def drain(self) -> None: ...

    async def end_streams(self) -> None:
        """Tell those who follow jobs that the server ends."""
        ...

    async def close(self) -> None: ...


class Server(uvicorn.Server):
    """uvicorn, told to drain first: ready turns false before the listener closes."""

    def __init__(self, config: uvicorn.Config, site: Served) -> None:
        super().__init__(config)
        self._site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, finish what was admitted, then close."""
        self._site.drain()
        await self._site.end_streams()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """`Web` hears the signals. uvicorn would raise them again afterwards, before engines are closed."""
        yield


@contextlib.contextmanager
def on_signals(call: Callable[[signal.Signals], object]) -> Iterator[None]:
    """SIGTERM and SIGINT call this, in the loop, and nothing else. Raises `SetupError` outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        raise SetupError(
            "forebay.serve hears signals, which only the main thread can; in another one use forebay.testing.serve, or "
            "forebay.create_app with a server of yours"
        )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, call, number)
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
        raise _taken(host, port, error) from error
    except ValueError:  # UnicodeError, of a name that DNS cannot have
        raise SetupError(f"cannot listen on {host!r}: that is no name of a host; choose another --host") from None
    return listener


def listen(listener: socket.socket) -> tuple[str, int]:
    """Take connections from now on, also those that nobody accepts yet: whoever is told the address calls at once.

    Raises `SetupError`: another process may have bound the same port, and been the first to listen.
    """
    host, port = listener.getsockname()[:2]
    try:
        listener.listen()
    except OSError as error:
        raise _taken(host, port, error) from error
    return host, port


def _taken(host: str, port: int, error: OSError) -> SetupError:
    return SetupError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port")


def health_server(app: FastAPI) -> uvicorn.Server:
    """A server for health and metrics only, to be told to end by `should_exit`; it hears no signals."""
    config = uvicorn.Config(
        app, loop="none", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return _HealthServer(config)


class _HealthServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker hears the signals."""
        yield


class Web:
    """One web process with what it serves."""

    def __init__(self, site: Served, on_stop: Callable[[], object] = bool) -> None:
        """on_stop: called when it is told to stop."""
        self._site = site
        self._on_stop = on_stop
        self._settings = site.settings
        self._starting: asyncio.Future[None] | None = None
        self._server: Server | None = None
        self._stopping = False

    async def serve(self) -> None:
        """Load, warm up, listen, until SIGTERM or SIGINT. Raises `SetupError` where the start fails."""
        listener = bind(self._settings.host, self._settings.port)
        with on_signals(self._stop):
            try:
                if await self._start():
                    # What start-up made stays: a collection need not look at it again while requests wait.
                    gc.collect()
                    gc.freeze()
                    # An engine that has ended is full of cycles, and there is little else to look through after that.
                    self._site.on_ended(gc.collect)
                    await self._listen(self._site.app(), listener)
            finally:
                listener.close()
                await self._site.close()

    def _stop(self, number: signal.Signals) -> None:
        """From now on it is being stopped: loading is given up, serving drains."""
        self._stopping = True
        self._on_stop()
        if self._server is not None:
            self._server.handle_exit(number, None)
        elif self._starting is not None:
            self._starting.cancel()

    async def _start(self) -> bool:
        """Whether the models have been loaded; a signal to stop gives that up. Raises `SetupError`."""
        self._starting = asyncio.ensure_future(self._site.start())
        await asyncio.wait([self._starting])
        if self._starting.cancelled():
            log.info("told to stop while models were loading")
            return False
        self._starting.result()
        return True

    async def _listen(self, app: FastAPI, listener: socket.socket) -> None:
        settings, inference = self._settings, self._site.inference
        unusable = usable()
        if unusable:
            log.warning("the express lane is off: %s", unusable, extra=fields(reason=unusable))
        config = uvicorn.Config(
            app,
            http=lane_protocol(inference, settings, self._site.jobs) if not unusable else "httptools",
            loop="none",
            ws=LaneSocket if not unusable else "websockets-sansio",
            ws_per_message_deflate=False,  # 39 KB a connection
            ws_max_size=MOST_MESSAGE_BYTES,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, int(settings.keep_alive_s)),
            timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
        )
        self._server = server = Server(config, self._site)
        server.should_exit = self._stopping
        if not unusable:
            inference.lookers.append(lambda endpoint: is_arriving(server.server_state.connections, endpoint))
        host, port = listen(listener)
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = ", ".join(inference.engines) or "no model yet"
        log.info("serving %s at %s (docs at %s/docs)", names, address, address, extra=fields(host=host, port=port))
        sweeping = asyncio.create_task(_sweep(server))
        try:
            await server.serve([listener])
        finally:
            sweeping.cancel()
