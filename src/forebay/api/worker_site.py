"""Everything of a worker: the engines of a site, which run jobs, and what tells others of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fastapi import FastAPI

from forebay.api.document_routes import add_health
from forebay.api.site import Site
from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.engine.client import EngineClient
from forebay.jobs.redis_directory import RedisDirectory
from forebay.worker.announcer import Announcer

log = logging.getLogger("forebay.api")


class WorkerSite:
    """Made on the event loop. `site` has jobs, in the store at the URL `store`."""

    def __init__(self, site: Site, store: str) -> None:
        self._site = site
        self._link = RedisLink(store)
        self._directory = RedisDirectory(self._link)
        self._announcer = Announcer(self._directory, self._engines)
        site.inference.on_route.append(lambda path, endpoint: self._announcer.wake())

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
        self._announcer.start()
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
        await self._announcer.withdraw()
        await self._site.close()
        await self._directory.close()
        await self._link.close()
