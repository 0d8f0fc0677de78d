"""When to lease which jobs, and how many: with nothing to do, one call that waits for all models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from forebay.core.clock import Clock
from forebay.core.errors import DependencyError
from forebay.jobs.store import JobQueue, LeasedJob
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import count
from forebay.worker.holding import Holding

log = logging.getLogger("forebay.worker")

MOST = 128
"""Jobs a call: a store's client unpacks them in one go, and nothing else runs meanwhile."""
PACED_MOST = 8
PACED_EVERY_S = 0.002
"""The same, and the least time between two calls, while somebody asks for answers: whatever is done for a job stops the
loop that reads and writes for them."""
WAIT_S = 2.0
"""How long a call waits for work."""
LOOK_S = 0.5
"""When to look again at models that are not ready, or have refused jobs, or at a store that cannot be reached."""
GLANCE_S = 0.05
"""How often to look for jobs of other models while some keep us busy."""
HELD_BYTES = 256 << 20
"""Bodies that are held at most, apart from one call's."""
RESULTS_MOST = 4 * MOST
"""With so many results that are not committed, no more jobs are leased."""
TOLD_S = 30.0
"""Why a lease failed is said again only when it was not the reason for so long: some calls may fail between others that
do not, since a call asks for some models only."""


class Leasing:
    """Fills a holding. `run` it until it ends, which it does after `stop`."""

    def __init__(self, queue: JobQueue, holding: Holding, lease_s: float, metrics: JobMetrics, clock: Clock) -> None:
        self._queue = queue
        self._holding = holding
        self._lease_s = lease_s
        self._metrics = metrics
        self._clock = clock
        self._hot: set[str] = set()
        """Models whose last call brought as many jobs as were asked for: there are more."""
        self._news = asyncio.Event()
        self._call: asyncio.Task[Sequence[LeasedJob]] | None = None
        self._asked: Mapping[str, int] = {}
        self._glance_at = 0.0
        self._told: dict[str, float] = {}
        """Why calls failed lately, and when the last did."""
        self._stopped = False
        self.resting = asyncio.Event()
        """Set while no call is on its way, and none will be."""
        self.resting.set()
        self._paced = False
        """Somebody has asked for answers lately, of whatever model."""

    def wake(self) -> None:
        """There is room, or other models are served, or the store can be reached again."""
        if self._news.is_set():
            return
        self._news.set()
        if self._call is not None and not self.wanted().keys() <= self._asked.keys():
            self._call.cancel()

    def stop(self) -> None:
        """Lease no more."""
        self._stopped = True
        self._news.set()
        if self._call is not None:
            self._call.cancel()

    def wanted(self) -> dict[str, int]:
        """How many jobs there is room for, by model; models without any are left out."""
        holding = self._holding
        if holding.commits.failing or len(holding.commits) > RESULTS_MOST or holding.nbytes > HELD_BYTES:
            return {}
        now = self._clock()
        found: dict[str, int] = {}
        for model, client in holding.codec.served().items():
            if client.state != "ready" or holding.paused.get(model, 0.0) > now:
                continue
            room = holding.room_of(model)
            jobs = min(PACED_MOST if self._paced else MOST, room.wanted(client))
            if room.nbytes:
                jobs = min(jobs, max(1, int((HELD_BYTES - holding.nbytes) / room.nbytes)))
            if jobs > 0:
                found[model] = jobs
        return found

    async def run(self) -> None:
        """Lease, until stopped."""
        self.resting.clear()
        try:
            await self._run()
        finally:
            self.resting.set()

    async def _run(self) -> None:
        while not self._stopped:
            self._news.clear()
            self._paced = any(client.asked_lately for client in self._holding.codec.served().values())
            self._holding.commits.most = PACED_MOST if self._paced else MOST
            try:
                await self._once(self.wanted())
            except DependencyError as error:
                self._failed(error)
                self._hot.clear()
                await asyncio.sleep(LOOK_S)

    async def _once(self, wanted: dict[str, int]) -> None:
        cold = {model: jobs for model, jobs in wanted.items() if model not in self._hot}
        if not self._hot:
            if wanted:
                await self._lease(wanted, WAIT_S)
            else:
                await self._rest(LOOK_S)
            return
        if cold and self._clock() >= self._glance_at:
            self._glance_at = self._clock() + GLANCE_S
            try:
                await self._lease(cold, 0.0)
            except DependencyError as error:
                # Perhaps the broker refuses the queues of these alone: that must not slow down those that have jobs.
                self._failed(error)
                self._glance_at = self._clock() + LOOK_S
        hot = wanted.keys() & self._hot
        for model in hot:
            await self._lease({model: wanted[model]}, 0.0)
        if not hot:
            await self._rest(GLANCE_S if cold else LOOK_S)

    def _failed(self, error: DependencyError) -> None:
        """One line for each reason."""
        count(self._metrics.store_errors, "lease")
        now = self._clock()
        self._told = {words: at for words, at in self._told.items() if now - at < TOLD_S}
        if error.message not in self._told:
            log.warning("no jobs could be leased; it is tried again: %s", error.message, extra=fields(code=error.code))
        self._told[error.message] = now

    async def _lease(self, wanted: Mapping[str, int], wait_s: float) -> None:
        """One call; it is canceled where `wake` finds a model with room that was not asked for."""
        most = min(wanted.values())
        self._asked = wanted
        call = self._call = asyncio.create_task(self._queue.lease(list(wanted), most, wait_s, self._lease_s))
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            call.cancel()
            call.add_done_callback(self._take_late)
            raise
        finally:
            self._call = None
        if call.cancelled():
            return
        jobs = call.result()
        self._hot.difference_update(wanted)
        if len(jobs) >= most:
            self._hot.update(job.spec.model for job in jobs)
        if jobs:
            self._holding.take(jobs)
            if self._paced:
                await asyncio.sleep(PACED_EVERY_S)

    def _take_late(self, call: asyncio.Task[Sequence[LeasedJob]]) -> None:
        """What a call brought that nobody waits for any more: it is held all the same, and so not forgotten."""
        if not call.cancelled() and call.exception() is None:
            self._holding.take(call.result())

    async def _rest(self, longest_s: float) -> None:
        try:
            async with asyncio.timeout(longest_s):
                await self._news.wait()
        except TimeoutError:
            pass
