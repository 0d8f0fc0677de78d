"""Everything of a server without engines but the listening: it takes requests and jobs, and workers run them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from forebay.api.app import create_app
from forebay.api.auth import Gate
from forebay.api.caches import Caches
from forebay.api.inference import Inference
from forebay.api.job_site import JobSite
from forebay.api.jobs import Jobs
from forebay.api.remote_models import RemoteModels
from forebay.api.semantic import SemanticTiers
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.brokers.redis_link import RedisLink
from forebay.core.clock import Clock
from forebay.core.errors import DependencyError
from forebay.core.settings import CacheSettings, JobSettings, ServerSettings
from forebay.engine.exchange import Exchange
from forebay.engine.remote import RemoteEngine
from forebay.jobs.redis_calls import RedisCalls
from forebay.jobs.redis_directory import RedisDirectory
from forebay.telemetry.metrics import Metrics

log = logging.getLogger("forebay.api")

NO_CONTROL = "this process has no models of its own: load and unload them where workers run"
NO_MODEL = "no worker has announced a model yet"


class WebSite:
    """Made inside the event loop's process, before it listens."""

    def __init__(
        self,
        settings: ServerSettings,
        gate: Gate,
        jobs: JobSettings,
        cache: CacheSettings,
        store: str,
        webhook_secrets: WebhookSecrets,
        clock: Clock = time.monotonic,
    ) -> None:
        """`store`: the URL of the store, which `jobs` names too. `cache`: where answers are kept.
        `webhook_secrets`: what webhooks are signed with. `clock`: times the drain."""
        self.settings = settings
        self.metrics = Metrics()
        self._caches = Caches(cache, self.metrics, store)
        self.inference = Inference({}, settings, gate, self._caches.answers, seeks_near=True)
        self._near = SemanticTiers(self.inference, self._caches, self.metrics)
        self.inference.jobs_wait = True
        self._job_site = JobSite(
            jobs, settings, Path(), self.inference, gate, self.metrics, clock, webhook_secrets, works=False
        )
        self._link = RedisLink(store)
        self._directory = RedisDirectory(self._link)
        self._calls = RedisCalls(self._link)
        self._exchange = Exchange(self._calls, time.monotonic)
        self._models = RemoteModels(
            self._directory,
            self.inference,
            self.metrics,
            lambda standing: RemoteEngine(standing, self._exchange),
            lambda known: self._exchange.seen(known.workers),
        )
        self._clock = clock
        self._drain_ends = 0.0
        """When the drain must have ended; 0 before it began."""

    async def start(self) -> None:
        """Begin to look what workers have; a store that cannot be reached is tried again. Raises `SetupError` for one
        that will not do."""
        try:
            await self._job_site.check()
        except DependencyError as error:
            log.warning("the store of jobs cannot be reached yet: %s", error.message)
        self._caches.start()
        self._job_site.start()
        self._exchange.start()
        self._models.start()
        await self._near.start()

    def app(self) -> FastAPI:
        """The app over what workers have."""
        return create_app(
            self.inference,
            metrics_text=self.metrics.text,
            ready=self.not_ready,
            control=NO_CONTROL,
            jobs=self.jobs,
            streams=self._job_site.streams,
        )

    @property
    def jobs(self) -> Jobs:
        """Submitting and looking."""
        return self._job_site.jobs

    def on_ended(self, call: Callable[[], object]) -> None:
        """No engine ends here."""

    def not_ready(self) -> list[str]:
        """Why requests are not welcome. That a model has no worker now is that model's affair: jobs can wait."""
        if self._drain_ends:
            return ["the server is shutting down"]
        if self._models.reason:
            return [self._models.reason]
        return [] if self.inference.engines else [NO_MODEL]

    def drain(self) -> None:
        """Ready turns false; new requests are refused; admitted ones are still answered."""
        self._drain_ends = self._drain_ends or self._clock() + self.settings.drain_timeout_s
        self._job_site.drain()
        self._near.drain()
        self.inference.hasten()
        for engine in self._models.engines:
            engine.drain()

    async def end_streams(self) -> None:
        """Let those who follow jobs know that the server ends, before their connections do."""
        await self._job_site.streams.ended()

    async def close(self) -> None:
        """Wait for the admitted, at most `drain_timeout_s`."""
        self.drain()
        await self._near.close()
        await self._exchange.close(max(0.0, self._drain_ends - self._clock()))
        await self._models.close()
        await self._job_site.close(max(0.0, self._drain_ends - self._clock()))
        await self._caches.close()
        await self._calls.close()
        await self._directory.close()
        await self._link.close()
