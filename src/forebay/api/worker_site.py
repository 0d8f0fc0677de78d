"""Everything of a worker: the engines of a site, which run jobs, and what tells others of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from fastapi import FastAPI

from forebay.api.document_routes import add_health
from forebay.api.endpoint import Endpoint
from forebay.api.site import Site
from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.engine.client import EngineClient
from forebay.jobs.redis_calls import RedisCalls
from forebay.jobs.redis_directory import RedisDirectory
from forebay.worker.announcer import Announcer
from forebay.worker.calls import CallWorker

log = logging.getLogger("forebay.api")


class WorkerSite:
    """Made on the event loop. `site` has jobs, in the store at the URL `store`."""

    def __init__(self, site: Site, store: str) -> None:
        self._site = site
        self._link = RedisLink(store)
        self._directory = RedisDirectory(self._link)
        self._announcer = Announcer(self._directory, self._engines)
        self._calls = RedisCalls(self._link)
        self._call_worker = CallWorker(self._calls, self._announcer.worker, self._engines, time.monotonic)
        site.inference.on_route.append(self._woken)
        self._started = False

    def _woken(self, path: bytes, endpoint: Endpoint | None) -> None:
        self._announcer.wake()
        self._call_worker.wake()

    def _engines(self) -> Iterable[EngineClient]:
        inference = self._site.inference
        return [engine for model in inference.engines for engine in inference.versions(model)]

    async def start(self) -> None:
        """Load the models, then tell of them. Raises `SetupError`."""
        try:
            await self._site.check_store()
        except DependencyError as error:
            log.warning("the store of jobs cannot be reached yet: %s", error.message)
        await self._site.start()
        self._call_worker.start()
        self._announcer.start()
        self._started = True
        names = ", ".join(f"{engine.name} version {engine.version}" for engine in self._engines())
        log.info("working with %s for %s", names or "no model yet", self._link.shown)

    def app(self) -> FastAPI:
        """Health and metrics, nothing else."""
        app = FastAPI(title="Forebay worker", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        add_health(app, self._site.inference, self._site.metrics.text, self.not_ready, of_process_only=True)
        return app

    def not_ready(self) -> list[str]:
        """Why it does not work; empty when it does."""
        return self._site.not_ready() + ([self._announcer.reason] if self._announcer.reason else [])

    async def close(self) -> None:
        """Take no more, finish what runs, give back the rest, and end."""
        if self._started:
            await self._announcer.retire()
            self._call_worker.stop()
            self._site.drain()
            await self._call_worker.close(self._site.settings.drain_timeout_s)
        await self._site.close()
        await self._announcer.withdraw()
        await self._calls.close()
        await self._directory.close()
        await self._link.close()
