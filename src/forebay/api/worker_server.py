"""The worker process: its site from start to drain, and a listener for health and metrics where one is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable

from forebay.api.server import bind, health_server, listen, on_signals
from forebay.api.worker_site import WorkerSite
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.api")


class WorkerProcess:
    """One worker. `address`: host and port to tell health and metrics at; None: it does not listen. `on_stop`: called
    when it is told to stop."""

    def __init__(
        self, site: WorkerSite, address: tuple[str, int] | None = None, on_stop: Callable[[], object] = bool
    ) -> None:
        self._site = site
        self._address = address
        self._on_stop = on_stop
        self._told = asyncio.Event()

    async def serve(self) -> None:
        """Load, work, until SIGTERM or SIGINT. Raises `SetupError` where the start fails."""
        with on_signals(self._stop):
            async with self._listening():
                try:
                    if await self._start():
                        gc.collect()
                        gc.freeze()
                        await self._told.wait()
                finally:
                    await self._site.close()

    def _stop(self, number: signal.Signals) -> None:
        self._on_stop()
        self._told.set()

    async def _start(self) -> bool:
        """Whether the models have been loaded; a signal to stop gives that up. Raises `SetupError`."""
        starting = asyncio.ensure_future(self._site.start())
        told = asyncio.ensure_future(self._told.wait())
        await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            log.info("told to stop while models were loading")
            return False
        starting.result()
        return True

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        if self._address is None:
            yield
            return
        listener = bind(*self._address)
        server = health_server(self._site.app())
        host, port = listen(listener)
        log.info("health and metrics at http://%s:%d", host, port, extra=fields(host=host, port=port))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([serving])
            listener.close()
