"""Calls the reaper every second, and tells how many jobs wait. Every process does; the store lets one of them lead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from forebay.core.errors import DependencyError
from forebay.jobs.store import JobQueue, Reaped
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.metrics import count

log = logging.getLogger("forebay.worker")

EVERY_S = 1.0
DEPTH_EVERY = 5
"""Rounds between two looks at the queues."""


class Reaper:
    """`start` it once, in a running event loop. `models` names those whose queues are shown in the metrics."""

    def __init__(self, queue: JobQueue, models: Callable[[], Iterable[str]], metrics: JobMetrics) -> None:
        self._queue = queue
        self._models = models
        self._metrics = metrics
        self._failing = False
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._run(), name="forebay reaper")

    async def close(self) -> None:
        """End."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        rounds = 0
        while True:
            try:
                await self.once(look=rounds % DEPTH_EVERY == 0)
                self._failing = False
            except DependencyError as error:
                self._fails("the reaper cannot reach the store: %s", error)
            except Exception as error:  # it goes on whatever happens: without it no lost job would ever come back
                self._fails("the reaper failed: %r", error)
            rounds += 1
            await asyncio.sleep(EVERY_S)

    def _fails(self, text: str, error: Exception) -> None:
        """One line for each time that it begins to fail."""
        count(self._metrics.store_errors, "reap")
        if not self._failing:
            log.warning(text, error)
        self._failing = True

    async def once(self, *, look: bool = True) -> None:
        """One round. `look`: at the queues, too."""
        self._note(await self._queue.reap())
        if look:
            depths: dict[str, tuple[int, int, float]] = {}
            for model in list(self._models()):
                depth = await self._queue.depth(model)
                depths[model] = depth.waiting, depth.running, depth.oldest_s
            self._metrics.depths = depths

    def _note(self, reaped: Reaped) -> None:
        done = {kind: number for kind, number in msgspec.structs.asdict(reaped).items() if kind != "leader" and number}
        if lost_stores := done.pop("stores_lost", 0):
            self._metrics.stores_lost += lost_stores
            log.error("the store of jobs was emptied, or is another one: jobs that were accepted before are lost")
        for kind, number in done.items():
            self._metrics.reaped[kind] = self._metrics.reaped.get(kind, 0) + number
        lost = {kind: done[kind] for kind in ("requeued", "failed", "republished") if kind in done}
        if lost:
            log.warning("jobs whose worker or message was lost: %s", ", ".join(f"{n} {k}" for k, n in lost.items()))
