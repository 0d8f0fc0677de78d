"""Jobs of one server: their store, who runs them, who waits for them. What belongs together, from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from forebay.api.auth import Gate
from forebay.api.inference import Inference
from forebay.api.job_codec import InferenceCodec
from forebay.api.job_hub import Hub
from forebay.api.job_streams import Streams
from forebay.api.jobs import Jobs
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.api.webhook_url import private_allowed
from forebay.api.webhooks import Webhooks
from forebay.brokers.embedded import EmbeddedValkey
from forebay.brokers.opening import Carrier, carrier_of
from forebay.brokers.redis_link import RedisLink
from forebay.core.clock import Clock
from forebay.core.errors import DependencyError, SetupError
from forebay.core.settings import JobSettings, ServerSettings
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.redis_jobs import RedisJobs
from forebay.jobs.redis_kept import RedisKept
from forebay.jobs.redis_records import RedisRecords
from forebay.jobs.store import JobQueue
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.metrics import Metrics
from forebay.worker.loop import Worker
from forebay.worker.parked import ParkedModels
from forebay.worker.reaper import Reaper

RETRY_S = 1.0
"""When to listen again for cancellations after the store could not be reached."""

log = logging.getLogger("forebay.api")


class JobSite:
    """The store that is started here starts when jobs are first used, or at the
    start where an earlier server has left jobs."""

    def __init__(
        self,
        settings: JobSettings,
        server: ServerSettings,
        data_dir: Path,
        inference: Inference,
        gate: Gate,
        metrics: Metrics,
        clock: Clock,
        secrets: WebhookSecrets,
        *,
        works: bool = True,
    ) -> None:
        """`works`: jobs are run here; else others do that."""
        self._embedded: EmbeddedValkey | None = None
        url = settings.store
        if url is None:
            self._embedded = EmbeddedValkey(data_dir, settings.durability)
            url = self._embedded.url
        self._link = RedisLink(url)
        self._carrier: Carrier | None = None
        self._store: RedisKept
        self._queue: JobQueue
        if settings.broker is None or settings.broker == settings.store:
            self._store = self._queue = RedisJobs(
                self._link, shards=settings.shards, republish_after_s=settings.republish_after_s
            )
        else:
            self._carrier = carrier_of(settings.broker)
            self._store = records = RedisRecords(
                self._link, shards=settings.shards, republish_after_s=settings.republish_after_s
            )
            self._queue = BrokeredQueue(records, self._carrier, republish_after_s=settings.republish_after_s)
        self._worker = Worker(self._queue, InferenceCodec(inference, clock), settings, clock) if works else None
        metrics.jobs = self._worker.metrics if self._worker is not None else JobMetrics()
        self._inference = inference
        self._reaper = Reaper(self._queue, lambda: [*inference.engines, *self._parked()], metrics.jobs)
        self._hub = Hub(self._store)
        private = private_allowed(settings, server.host)
        self.jobs = Jobs(
            settings,
            server,
            self._queue,
            self._store,
            self._hub,
            ready=self.ready,
            private_webhooks=private,
            webhooks=len(secrets) > 0,
            carried=self._carrier is not None,
        )
        self._webhooks: Webhooks | None = None
        if len(secrets):
            self._webhooks = Webhooks(self._store, self._store, secrets, private=private, metrics=metrics.jobs)
        self.streams = Streams(self._hub, gate, self.ready)
        self._beginning: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._calling: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        self._closed = False
        self._told = self._broker_told = ""

    def start(self) -> None:
        """The models are there: run what waits, where it is known that something may."""
        if self._embedded is None:
            self._begin()
        elif self._embedded.has_jobs():
            self._beginning = asyncio.create_task(self._begin_in_time(), name="forebay jobs: start")

    async def _begin_in_time(self) -> None:
        with contextlib.suppress(DependencyError):  # it is in the log
            await self.ready()

    async def ready(self) -> None:
        """Before every use of the store: starts it, where that has not been done. Raises `DependencyError`."""
        if self._hearing is not None:
            return
        if self._closed:
            raise DependencyError("the server is shutting down", public=True)
        if self._embedded is not None:
            try:
                await self._embedded.start()
            except SetupError as error:
                self._tell(error.message)
                raise DependencyError(error.message) from None
        self._begin()

    def _tell(self, reason: str) -> None:
        """Once, however many submissions are refused for it."""
        if reason != self._told and not self._closed:
            self._told = reason
            log.error("jobs are refused, for their store cannot be started: %s", reason)

    def _begin(self) -> None:
        if self._hearing is None and not self._closed:
            self._hearing = asyncio.create_task(self._hear(), name="forebay jobs: changes")
            if self._worker is not None:
                self._worker.start()
                if (on_demand := self._inference.on_demand) is not None:
                    parked = ParkedModels(self._queue, self._parked, on_demand.wake)
                    self._waking = asyncio.create_task(parked.run(), name="forebay jobs: unloaded models")
            self._reaper.start()
            if self._webhooks is not None:
                self._calling = asyncio.create_task(self._webhooks.run(), name="forebay jobs: webhooks")

    def _parked(self) -> Sequence[str]:
        on_demand = self._inference.on_demand
        return on_demand.names() if on_demand is not None else ()

    async def check(self) -> None:
        """Look whether a store that is not started here will do, and a broker. Raises `SetupError`, or
        `DependencyError` where one cannot be asked now."""
        if self._embedded is None:
            await self._store.check()
        await self.check_broker()

    async def check_broker(self) -> None:
        """Look, once, whether a broker beside the store will do. Raises `SetupError`; one that cannot be reached now is
        tried again."""
        if self._carrier is None or self._broker_told:
            return
        try:
            self._broker_told = await self._carrier.check()
        except DependencyError as error:
            self._broker_told = error.message
            log.warning("the broker cannot be reached yet: %s", error.message)
        else:
            log.info("jobs are carried by %s", self._broker_told)

    async def _hear(self) -> None:
        """Jobs that were canceled elsewhere are not worth running here."""
        while True:
            try:
                async for changes in self._store.changes({"canceled"}):
                    if self._worker is not None:
                        self._worker.discard([change.id for change in changes])
            except DependencyError:
                pass  # others tell of it
            except Exception:  # it goes on whatever happens: without it canceled jobs would be run
                log.exception("hearing of canceled jobs failed")
            await asyncio.sleep(RETRY_S)

    def not_ready(self) -> list[str]:
        """Why jobs are not run; empty when they are, or were never asked for."""
        if self._embedded is not None and self._embedded.state in ("loading", "down"):
            return [f"the store of jobs is {self._embedded.state}"]
        return [self._worker.reason] if self._worker is not None and self._worker.reason else []

    def drain(self) -> None:
        """Lease no more; end the streams of events; answer polls with how far their jobs are."""
        if self._worker is not None:
            self._worker.drain()
        self.streams.end()
        self._hub.drain()

    async def close(self, grace_s: float) -> None:
        """Wait at most so long for jobs that run; give back the others; finish the calls of webhooks that are made; end
        the store that was started here."""
        self.drain()
        self._closed = True
        await self.jobs.close()
        await _ended(self._beginning)
        await _ended(self._waking)
        await _ended(self._hearing)
        if self._worker is not None:
            await self._worker.close(grace_s)
        await self._reaper.close()
        await _ended(self._calling)
        await self._hub.close()
        await self._queue.close()
        await self._link.close()
        if self._embedded is not None:
            await self._embedded.stop()


async def _ended(one: asyncio.Task[None] | None) -> None:
    if one is not None:
        one.cancel()
        await asyncio.wait([one])
