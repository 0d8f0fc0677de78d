"""Everything of one server but the listening: models, the app over them, readiness, drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from forebay.api.app import Lifespan, create_app
from forebay.api.auth import Gate
from forebay.api.caches import Caches
from forebay.api.cascades import Cascades
from forebay.api.companions import no_pair
from forebay.api.inference import Inference
from forebay.api.job_site import JobSite
from forebay.api.jobs import Jobs
from forebay.api.repository_routes import ModelControl
from forebay.api.semantic import SemanticTiers
from forebay.api.variants import Variants
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.core.clock import Clock
from forebay.core.errors import SetupError
from forebay.core.settings import CacheSettings, JobSettings, ServerSettings
from forebay.engine.cores import cores_for
from forebay.repository.catalog import Catalog
from forebay.repository.plans import PlanOf
from forebay.repository.registry import Registry
from forebay.repository.watch import Watch
from forebay.request_log.logs import RequestLogs
from forebay.telemetry.metrics import Metrics


class Site:
    """Models that are served, and what tells of them. Made inside the event loop's process, before it listens."""

    def __init__(
        self,
        settings: ServerSettings,
        gate: Gate,
        catalog: Catalog,
        plan_of: PlanOf,
        control_refusal: str,
        clock: Clock = time.monotonic,
        *,
        jobs: JobSettings | None = None,
        cache: CacheSettings | None = None,
        data_dir: Path = Path(),
        webhook_secrets: WebhookSecrets | None = None,
        seeks_near: bool = True,
    ) -> None:
        """`control_refusal`: why models may not be loaded and unloaded over HTTP; empty where they may. `clock`: times
        the drain. `jobs`: None where there are none. `cache`: where answers are kept. `data_dir`: where the jobs' store
        is, unless it is elsewhere. `webhook_secrets`: what webhooks are signed with; None: there are none.
        `seeks_near`: texts get the answers to near ones here, for models that want that."""
        self.settings = settings
        self.metrics = Metrics()
        self._caches = Caches(cache or CacheSettings(), self.metrics, jobs.store if jobs is not None else None)
        self.inference = Inference({}, settings, gate, self._caches.answers, seeks_near=seeks_near)
        self._near = SemanticTiers(self.inference, self._caches, self.metrics)
        cores = cores_for(settings.fair_cores)
        pair = no_pair if cores is None else cores.pair
        self._cascades = Cascades(self.inference, self.metrics, pair)
        self._variants = Variants(self.inference, self.metrics, pair)
        self.inference.not_started = "no model is started: the lifespan of this app has not run (docs/embedding.md)"
        limit_bytes = settings.memory_limit_bytes
        self._logs = RequestLogs()
        self.metrics.request_log = self._logs.metrics
        self.registry = Registry(catalog, plan_of, self.inference, self.metrics, cores, limit_bytes, self._logs)
        self.inference.why_not_loaded = self.registry.why_not_loaded
        if limit_bytes is not None:
            self.inference.on_demand = self.registry.on_demand
        self._jobs: JobSite | None = None
        if jobs is not None:
            secrets = webhook_secrets or WebhookSecrets()
            self._jobs = JobSite(jobs, settings, data_dir, self.inference, gate, self.metrics, clock, secrets)
        self._catalog = catalog
        self._control = ModelControl(self.registry, control_refusal)
        self._watching: asyncio.Task[None] | None = None
        self._clock = clock
        self._drain_ends = 0.0
        """When the drain must have ended; 0 before it began."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where it was started."""

    async def start(self) -> None:
        """Load the models, and begin to watch them where that is set. Once only. Raises `SetupError`."""
        if self.loop is not None:
            raise SetupError(
                "these models were started before, and have ended: make a new app or engine for each start"
            )
        self.loop = asyncio.get_running_loop()
        if self._jobs is not None:
            await self._jobs.check_broker()
        first = await asyncio.to_thread(self._catalog.stamps) if self.settings.watch else {}
        self._caches.start()
        await self.registry.start()
        self._cascades.start(self._catalog.is_named)
        self._variants.start(self._catalog.is_named)
        await self._near.start(self._catalog.is_named)
        self.inference.not_started = ""
        if self._jobs is not None:
            self._jobs.start()
        if self.settings.watch:
            watch = Watch(self.registry, self._catalog, self.settings.watch_interval_s)
            self._watching = asyncio.create_task(watch.run(first))

    async def check_store(self) -> None:
        """Look whether a store of jobs that is not started here will do. Raises `SetupError`, or `DependencyError`
        where it cannot be asked now."""
        if self._jobs is not None:
            await self._jobs.check()

    def app(self, lifespan: Lifespan | None = None) -> FastAPI:
        """The app over the models; they may be started before or after."""
        return create_app(
            self.inference,
            metrics_text=self.metrics.text,
            ready=self.not_ready,
            lifespan=lifespan,
            control=self._control,
            jobs=self.jobs,
            streams=self._jobs.streams if self._jobs is not None else None,
        )

    @property
    def jobs(self) -> Jobs | None:
        """Submitting and looking; None where there are no jobs."""
        return self._jobs.jobs if self._jobs is not None else None

    def not_ready(self) -> list[str]:
        """Why requests are not welcome; empty when they are."""
        if self._drain_ends:
            return ["the server is shutting down"]
        if self.inference.not_started:
            return [self.inference.not_started]
        return self.registry.not_ready() + (self._jobs.not_ready() if self._jobs is not None else [])

    def on_ended(self, call: Callable[[], object]) -> None:
        """Call this whenever an engine has ended."""
        self.registry.on_ended = call

    def drain(self) -> None:
        """Ready turns false; new requests are refused; admitted ones still run."""
        self._drain_ends = self._drain_ends or self._clock() + self.settings.drain_timeout_s
        if self._watching is not None:
            self._watching.cancel()
        if self._jobs is not None:
            self._jobs.drain()
        self._near.drain()
        self._cascades.drain()
        self._variants.drain()
        self.inference.hasten()
        self.registry.drain()

    async def end_streams(self) -> None:
        """Let those who follow jobs know that the server ends, before their connections do."""
        if self._jobs is not None:
            await self._jobs.streams.ended()

    async def close(self) -> None:
        """Wait for the admitted, at most `drain_timeout_s`, then end every process."""
        self.drain()
        if self._watching is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._jobs is not None:
            await self._jobs.close(max(0.0, self._drain_ends - self._clock()))
        await self._near.close()
        await self._cascades.close()
        await self._variants.close()
        await self.registry.close(max(0.0, self._drain_ends - self._clock()))
        await self._caches.close()
        await self._logs.close()
