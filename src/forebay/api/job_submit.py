"""Submitting jobs to their store: those that come while a call is under way are sent together by the next one.

No timer: a lone job is sent at once, and how many share a call is found by how long calls take. Nothing here awaits on
behalf of a caller, so that the express lane needs no asyncio task for a job.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from forebay.core.errors import AdmissionError, DependencyError
from forebay.jobs.store import Bounds, JobQueue, NewJob, Submission
from forebay.telemetry.logs import fields

MOST_CALLS = 4
"""Calls under way. A further one begins only when enough jobs wait for it to pay: a whole call's worth, where the store
queues by itself and so answers soon."""
MOST_JOBS = 128
CARRIED_JOBS = 16
"""What pays where a broker has to confirm: that is mostly waiting, which several calls may do at once."""
MOST_CALL_BYTES = 4 << 20
"""Bodies in one call; one job may be larger."""
MOST_WAITING = 16_384
MOST_WAITING_BYTES = 256 << 20

log = logging.getLogger("forebay.api")

Outcome = Submission | Exception
Then = Callable[[Outcome], None]


class Sending:
    """One job on its way to the store."""

    __slots__ = ("new", "then", "withdrawn")

    def __init__(self, new: NewJob, then: Then) -> None:
        self.new = new
        self.then = then
        self.withdrawn = False

    def withdraw(self) -> None:
        """The caller has left. A job that is not sent yet is dropped; one that is sent stays submitted."""
        self.withdrawn = True


class Submitter:
    """All submissions of one process, on its event loop."""

    def __init__(
        self,
        queue: JobQueue,
        bounds: Bounds,
        ready: Callable[[], Awaitable[None]],
        worth_jobs: int = MOST_JOBS,
    ) -> None:
        """`ready`: awaited before every call; starts the store where it is not started yet. `worth_jobs`: so many make
        it worth while to begin a further call beside another."""
        self._queue = queue
        self._bounds = bounds
        self._ready = ready
        self._worth_jobs = worth_jobs
        self._waiting: deque[Sending] = deque()
        self._waiting_bytes = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._sending = 0
        """Of the calls those that will look once more whether something waits."""
        self._closed = False

    def submit(self, new: NewJob, then: Then) -> Sending:
        """Submit one job; `then` is called once, later, with what came of it: `Submission`, or a `ForebayError`.

        Raises `AdmissionError` (queue_full, draining).
        """
        if self._closed:
            raise AdmissionError("the server is shutting down", code="draining")
        nbytes = len(new.spec.body)
        if len(self._waiting) >= MOST_WAITING or self._waiting_bytes + nbytes > MOST_WAITING_BYTES:
            raise AdmissionError("too many jobs wait for the store to take them", code="queue_full")
        sending = Sending(new, then)
        self._waiting.append(sending)
        self._waiting_bytes += nbytes
        if not self._sending or (self._sending < MOST_CALLS and len(self._waiting) >= self._worth_jobs * self._sending):
            self._sending += 1
            call = asyncio.get_running_loop().create_task(self._send())
            self._calls.add(call)
            call.add_done_callback(self._ended)
        return sending

    async def submitted(self, new: NewJob) -> Submission:
        """Submit one job and wait for what comes of it. Raises `ForebayError`."""
        done: asyncio.Future[Submission] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if done.done():
                return
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        sending = self.submit(new, settle)
        try:
            return await done
        finally:
            sending.withdraw()

    async def close(self) -> None:
        """Send what waits, then take nothing more."""
        self._closed = True
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _send(self) -> None:
        """One call after another until nothing waits."""
        while batch := self._next():
            outcomes: Sequence[Outcome] = [_stopped() for _ in batch]
            try:
                await self._ready()
                outcomes = await self._queue.submit([sending.new for sending in batch], self._bounds)
                if len(outcomes) != len(batch):
                    raise RuntimeError(f"{len(batch)} jobs were submitted, {len(outcomes)} outcomes came back")
            except Exception as error:
                outcomes = [_own(error) for _ in batch]
                if not isinstance(error, DependencyError):
                    log.error("submitting jobs failed", exc_info=error, extra=fields(code="internal"))
            finally:
                _settle(batch, outcomes)
        self._sending -= 1

    def _ended(self, call: asyncio.Task[None]) -> None:
        """A call that was canceled, since the loop ends, leaves nobody waiting."""
        self._calls.discard(call)
        if call.cancelled():
            self._closed = True
            waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
            _settle(waiting, [_stopped() for _ in waiting])

    def _next(self) -> list[Sending]:
        """The jobs of the next call, in their order; those whose callers have left are dropped."""
        batch: list[Sending] = []
        call_bytes = 0
        while self._waiting and len(batch) < MOST_JOBS:
            nbytes = len(self._waiting[0].new.spec.body)
            if batch and call_bytes + nbytes > MOST_CALL_BYTES:
                break
            sending = self._waiting.popleft()
            self._waiting_bytes -= nbytes
            if not sending.withdrawn:
                batch.append(sending)
                call_bytes += nbytes
        return batch


def _settle(batch: Sequence[Sending] | deque[Sending], outcomes: Sequence[Outcome]) -> None:
    for sending, outcome in zip(batch, outcomes, strict=True):
        try:
            sending.then(outcome)
        except Exception as error:
            log.error("the answer to a job failed", exc_info=error, extra=fields(code="internal"))


def _own(error: Exception) -> Exception:
    """An error for each of many callers: each raises it, and would hold on to the frames of all."""
    return error.anew() if isinstance(error, DependencyError) else error


def _stopped() -> DependencyError:
    words = "the server stopped while the job was submitted; whether it was accepted is not known"
    return DependencyError(words, public=True)
