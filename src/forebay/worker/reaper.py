"""Calls the reaper every second, and tells how many jobs wait. Every process does; the store lets one of them lead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from forebay.core.errors import DependencyError
from forebay.jobs.store import JobQueue, Reaped
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.metrics import count

log = logging.getLogger("forebay.worker")

EVERY_S = 1.0
LOOK_EVERY_S = 5.0
"""Between two looks at the queues."""


class Reaper:
    """`start` it once, in a running event loop. `models` names those whose queues are shown in the metrics."""

    def __init__(self, queue: JobQueue, models: Callable[[], Iterable[str]], metrics: JobMetrics) -> None:
        self._queue = queue
        self._models = models
        self._metrics = metrics
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin. The two go on apart: how many jobs wait is told by the records, while it is the broker that may be
        away, or silent for long."""
        reaping = self._again_and_again(self.once, EVERY_S, "reap", "the reaper cannot reach the store, or the broker")
        looking = self._again_and_again(self.look, LOOK_EVERY_S, "depth", "how many jobs wait cannot be told")
        self._running = [
            asyncio.create_task(reaping, name="forebay reaper"),
            asyncio.create_task(looking, name="forebay reaper: depths"),
        ]

    async def close(self) -> None:
        """End."""
        for running in self._running:
            running.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _again_and_again(
        self, once: Callable[[], Awaitable[None]], every_s: float, call: str, failing: str
    ) -> None:
        """One line each time that it begins to fail, or fails for another reason."""
        said = ""
        while True:
            words = ""
            try:
                await once()
            except DependencyError as error:
                words = f"{failing}: {error.message}"
            except Exception as error:  # it goes on whatever happens: without it no lost job would ever come back
                words = f"the reaper failed: {error!r}"
            if words:
                count(self._metrics.store_errors, call)
            if words and words != said:
                log.warning("%s", words)
            said = words
            await asyncio.sleep(every_s)

    async def once(self) -> None:
        """One round. Raises `DependencyError`, also where only some of it was done."""
        reaped = await self._queue.reap()
        self._note(reaped)
        if reaped.unsent:
            raise DependencyError(reaped.unsent, code="broker_unavailable")

    async def look(self) -> None:
        """One look at the queues. Raises `DependencyError`."""
        depths: dict[str, tuple[int, int, float]] = {}
        for model in list(self._models()):
            depth = await self._queue.depth(model)
            depths[model] = depth.waiting, depth.running, depth.oldest_s
        self._metrics.depths = depths

    def _note(self, reaped: Reaped) -> None:
        told = msgspec.structs.asdict(reaped)
        done = {kind: number for kind, number in told.items() if kind not in ("leader", "unsent") and number}
        if lost_stores := done.pop("stores_lost", 0):
            self._metrics.stores_lost += lost_stores
            log.error("the store of jobs was emptied, or is another one: jobs that were accepted before are lost")
        for kind, number in done.items():
            self._metrics.reaped[kind] = self._metrics.reaped.get(kind, 0) + number
        lost = {kind: done[kind] for kind in ("requeued", "failed", "republished") if kind in done}
        if lost:
            log.warning("jobs whose worker or message was lost: %s", ", ".join(f"{n} {k}" for k, n in lost.items()))
