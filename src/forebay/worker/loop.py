"""The worker: leases jobs, has them run by the engines of this process, keeps their leases, commits how they ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from forebay.core.clock import Clock
from forebay.core.errors import DependencyError
from forebay.core.settings import JobSettings
from forebay.jobs.store import JobQueue
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.metrics import count
from forebay.worker.codec import JobCodec
from forebay.worker.holding import Holding
from forebay.worker.leasing import Leasing

log = logging.getLogger("forebay.worker")

RENEWALS = 3
"""So often a lease is renewed before it would run out."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LAST_COMMITS_S = 2.0
"""How long the last commits may take, where the grace of a drain leaves less."""


class Worker:
    """Runs on one event loop. `start` it once there; then `drain` and `close`."""

    def __init__(self, queue: JobQueue, codec: JobCodec, settings: JobSettings, clock: Clock) -> None:
        self.metrics = JobMetrics()
        self.reason = ""
        """Why no jobs are run: the loop has died and is about to start again. Empty while all is well."""
        self._queue = queue
        self._lease_s = settings.lease_s
        self._clock = clock
        self._holding = Holding(queue, codec, self.metrics, clock, self._wake)
        self._commits = self._holding.commits
        self._leasing = Leasing(queue, self._holding, settings.lease_s, self.metrics, clock)
        self.metrics.held = lambda: (len(self._holding.held), len(self._commits))
        self._draining = False
        self._running: asyncio.Task[None] | None = None
        codec.watch(self._wake)

    @property
    def held(self) -> int:
        """Jobs that are leased here and whose end is not committed."""
        return len(self._holding.held)

    def start(self) -> None:
        """Begin to lease."""
        self._running = asyncio.create_task(self._run(), name="forebay worker")

    def discard(self, ids: Iterable[str]) -> None:
        """These jobs were canceled or deleted, as the store's changes tell; those that are not held are passed over."""
        self._holding.discard(ids)

    def drain(self) -> None:
        """Lease no more, give back at once what has not begun; what runs may end."""
        self._draining = True
        self._leasing.stop()
        self._give_back_waiting()

    async def close(self, grace_s: float) -> None:
        """Drain, wait at most so long for what runs, give back the rest, and end."""
        self.drain()
        until = self._clock() + grace_s
        await _happens(self._leasing.resting, LAST_COMMITS_S)
        self._give_back_waiting()  # a last call may have brought some
        while self._holding.unfinished() and self._clock() < until:
            self._holding.ended.clear()
            await _happens(self._holding.ended, until - self._clock())
            self._give_back_waiting()
        for held in self._holding.unfinished():
            self._holding.give_back(held)
        if self._running is None:
            return
        await _happens(self._commits.settled, max(LAST_COMMITS_S, until - self._clock()))
        self._running.cancel()
        await asyncio.wait([self._running])
        if len(self._commits):
            log.error("%d results could not be committed; their jobs will run again", len(self._commits))

    def _wake(self) -> None:
        self._leasing.wake()

    def _give_back_waiting(self) -> None:
        for held in self._holding.unfinished():
            if not held.running:
                self._holding.give_back(held)

    # -- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Run the parts of the loop. Whatever ends one of them ends all, and they start again."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = self._clock()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._leasing.run())
                    group.create_task(self._renew())
                    group.create_task(self._commits.run())
            except* Exception as errors:
                if self._clock() - began > LONGEST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
                self.reason = f"the worker loop died: {errors.exceptions[0]!r}"
                log.error("the worker loop died; it starts again in %g s", pause_s, exc_info=errors)
            # What is done is kept, and committed later. What is not goes back then, lest it waits for its lease to end.
            for held in self._holding.unfinished():
                self._holding.give_back(held)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.reason = ""

    async def _renew(self) -> None:
        """Keep the leases of all that is held. What is no longer ours is dropped."""
        every_s = self._lease_s / RENEWALS
        while True:
            await asyncio.sleep(every_s)
            held = list(self._holding.held.values())
            if not held:
                continue
            try:
                ours = await self._queue.extend([one.job for one in held], self._lease_s)
            except DependencyError:
                count(self.metrics.store_errors, "extend")
                continue
            for one, is_ours in zip(held, ours, strict=True):
                if not is_ours:
                    self._holding.drop(one)


async def _happens(event: asyncio.Event, within_s: float) -> None:
    """Wait for it, but no longer."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        pass
