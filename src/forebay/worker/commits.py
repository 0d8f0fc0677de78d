"""Tells the store how jobs go and how they ended: many a call, in order, and again until the store has taken it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from forebay.core.errors import DependencyError
from forebay.jobs.record import JobError
from forebay.jobs.store import Finish, JobQueue, LeasedJob, Partial
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import count

log = logging.getLogger("forebay.worker")

MOST = 128
"""Jobs a call, unless `most` says otherwise: a store's client packs them in one go, and nothing else runs meanwhile."""
MOST_BYTES = 8 << 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
TELL_EVERY_S = 0.02
"""Pieces and progress are gathered for so long; the end of a job does not wait."""
MOST_PARTIALS = 10_000
"""Beyond it no more are kept while the store cannot be reached: the whole answer follows at the end."""


class Commits:
    """What is not committed yet. `on_settled(finish, stands)` is called for each end that is; `on_lost(job)` where the
    store says that a job which still runs is somebody else's by now; `on_rest()` whenever nothing is held any more."""

    def __init__(
        self,
        queue: JobQueue,
        metrics: JobMetrics,
        on_settled: Callable[[Finish, bool], None],
        on_lost: Callable[[LeasedJob], None],
        on_rest: Callable[[], None],
    ) -> None:
        self.most = MOST
        self.failing = False
        """The store cannot be reached: what is done is held, and no more should be begun."""
        self.settled = asyncio.Event()
        """Set where nothing is held."""
        self.settled.set()
        self._queue = queue
        self._metrics = metrics
        self._on_settled = on_settled
        self._on_lost = on_lost
        self._on_rest = on_rest
        self._finishes: deque[Finish] = deque()
        self._partials: list[Partial] = []
        self._news = asyncio.Event()
        self._ends = asyncio.Event()
        self._broken: set[str] = set()
        """Nonces of jobs whose end the store's client cannot write."""

    def __len__(self) -> int:
        """Ends that are not committed."""
        return len(self._finishes)

    def finish(self, finish: Finish) -> None:
        """A job ended."""
        self._finishes.append(finish)
        if not self._ends.is_set():
            self._ends.set()
            self._news.set()
            self.settled.clear()

    def tell(self, partial: Partial) -> bool:
        """A job goes on. False: it is not kept, since too much is."""
        if len(self._partials) >= MOST_PARTIALS:
            return False
        self._partials.append(partial)
        self._news.set()
        return True

    async def run(self) -> None:
        """Commit, until canceled."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._news.wait()
            if not self._finishes:
                await self._gather()
            # Chosen before the store is told how jobs go, so that all of it stands before their ends.
            batch = self._next()
            try:
                await self._commit(batch)
            except DependencyError as error:
                if not self.failing:
                    log.warning(
                        "the store cannot be reached; %d results are held: %s",
                        len(self._finishes),
                        error,
                        extra=fields(code=error.code),
                    )
                self.failing = True
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if self.failing:
                log.info("the store can be reached again; what was held is being committed")
            self.failing, pause_s = False, FIRST_PAUSE_S
            self._rest()

    def _rest(self) -> None:
        if not self._finishes:
            self._ends.clear()
            self.settled.set()
            self._on_rest()
            if not self._partials:
                self._news.clear()

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(TELL_EVERY_S):
                await self._ends.wait()
        except TimeoutError:
            pass

    async def _commit(self, batch: Sequence[Finish]) -> None:
        """Raises `DependencyError` where the store did not take all of it."""
        refused: DependencyError | None = None
        try:
            if self._partials:
                await self._tell()
        except DependencyError as error:
            if not self.failing:
                raise  # it may be for a moment only, and then nothing need be missing
            refused = error
        if batch:
            await self._finish(batch)
        if refused is not None:
            # A store that is full takes ends, but not what comes before them: that would be refused after them too.
            ended = {finish.job.nonce for finish in batch}
            self._partials = [partial for partial in self._partials if partial.job.nonce not in ended]
            raise refused

    async def _tell(self) -> None:
        told = len(self._partials)
        partials = _newest_progress(self._partials)
        try:
            stand = await self._queue.tell(partials)
        except DependencyError:
            count(self._metrics.store_errors, "tell")
            raise
        del self._partials[:told]
        for partial, stands in zip(partials, stand, strict=True):
            if not stands:
                self._on_lost(partial.job)

    async def _finish(self, batch: Sequence[Finish]) -> None:
        try:
            stand = await self._queue.finish(batch)
        except DependencyError:
            count(self._metrics.store_errors, "finish")
            raise
        except Exception as error:
            self._mend(batch, error)
            return
        for finish, stands in zip(batch, stand, strict=True):
            self._finishes.popleft()
            self._broken.discard(finish.job.nonce)
            count(self._metrics.finished, (finish.job.spec.model, finish.kind if stands else "lost"))
            self._on_settled(finish, stands)

    def _next(self) -> Sequence[Finish]:
        """The first ends, as many as go into one call; one that could not be written goes alone."""
        batch: list[Finish] = []
        nbytes = 0
        for finish in self._finishes:
            if finish.output is not None:
                nbytes += len(finish.output.body)
            alone = finish.job.nonce in self._broken
            if batch and (alone or nbytes > MOST_BYTES):
                break
            batch.append(finish)
            if alone or len(batch) >= self.most:
                break
        return batch

    def _mend(self, batch: Sequence[Finish], error: Exception) -> None:
        """Something in it cannot be written: each alone, and the one that it is fails. It must not stop the others."""
        if len(batch) > 1:
            self._broken.update(finish.job.nonce for finish in batch)
            return
        finish = self._finishes.popleft()
        job = finish.job
        log.error("the end of a job cannot be stored", exc_info=error, extra=fields(model=job.spec.model))
        if finish.kind == "failed" and finish.metrics is None:
            self._on_settled(finish, False)
            return
        told = JobError("internal", f"its answer cannot be stored: {type(error).__name__}")
        self._finishes.appendleft(Finish(job, "failed", error=told))


def _newest_progress(partials: Sequence[Partial]) -> list[Partial]:
    """All pieces, and of each job's progress between them the last."""
    kept: list[Partial] = []
    place: dict[str, int] = {}
    for partial in partials:
        nonce = partial.job.nonce
        before = place.get(nonce)
        if partial.piece is None and before is not None and kept[before].piece is None:
            kept[before] = partial
        else:
            place[nonce] = len(kept)
            kept.append(partial)
    return kept
