"""`Exchange`: requests on their way to workers, until each has its one answer.

Every request has a timer of its own, so that it ends in time whatever becomes of workers, store and messages.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Final

from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, DeadlineExceeded, DependencyError, ForebayError
from forebay.core.request import Request
from forebay.jobs.calls import CALLER_DIGITS, Call, CallAnswer, Calls
from forebay.jobs.outbox import Outbox

log = logging.getLogger("forebay.engine")

GRACE_S: Final = 0.02
"""After its deadline a request waits so long for the worker to say where it was by then."""
ASKED_AFTER_S: Final = 1.0
"""Calls that are younger are not asked after."""
SECOND_LOOK_S: Final = 0.2
"""A call that nobody has may have been answered a moment ago: it is given up when it is so again, so much later."""
MOST_VANISHED: Final = 10_000

OnEnd = Callable[[Request, "bytes | ForebayError"], None]


class Trip:
    """One request on its way. `ids`: of its calls, of which the first answer counts."""

    __slots__ = ("body", "end", "form", "ids", "level", "lost_at", "on_end", "request", "sent_at", "timer")

    def __init__(self, request: Request, form: str, level: int, body: bytes, end: float, on_end: OnEnd) -> None:
        self.request = request
        self.form = form
        self.level = level
        self.body = body
        self.end = end
        self.on_end = on_end
        self.ids: list[str] = []
        self.sent_at = 0.0
        """0: it is not sent."""
        self.lost_at = 0.0
        """When it was first seen that nobody has it; 0: it was not."""
        self.timer: asyncio.TimerHandle | None = None


class Exchange:
    """All requests of one process to workers, on its event loop. `clock`: monotonic seconds, that of deadlines."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._caller = secrets.token_urlsafe(CALLER_DIGITS)[:CALLER_DIGITS]
        self._number = 0
        self._trips: dict[str, Trip] = {}
        """By the id of each call that may still be answered."""
        self._outbox: Outbox[Trip] = Outbox(self._send, lambda trip: len(trip.body))
        self._dropped: Outbox[str] = Outbox(self._drop, len)
        self._workers: frozenset[str] = frozenset()
        self._vanished: set[str] = set()
        """Workers that were there and are not any more."""
        self._asking: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Listen for answers."""
        self._calls.hear(self._caller, self._answered, self._ask)

    def submit(self, request: Request, form: str, level: int, body: bytes, on_end: OnEnd) -> None:
        """Send a request; `on_end` is called once with its answer, or with an error, unless it is canceled."""
        trip = request.order = Trip(request, form, level, body, request.deadline, on_end)
        # uvloop rounds delays to whole milliseconds.
        delay_s = max(0.001, request.deadline + GRACE_S - self._clock())
        trip.timer = asyncio.get_running_loop().call_later(delay_s, self._overdue, trip)
        self._post(trip)

    def cancel(self, request: Request) -> None:
        """Its caller has left."""
        trip: Trip | None = request.order
        if trip is not None and trip.timer is not None:
            self._close(trip)
            for id in trip.ids:
                self._dropped.put(id)

    def seen(self, workers: Collection[str]) -> None:
        """These workers are there. Calls that others have taken are sent once more."""
        if len(self._vanished) > MOST_VANISHED:
            self._vanished.clear()
        self._vanished |= self._workers
        self._workers = frozenset(workers)
        self._vanished -= self._workers
        now = self._clock()
        if any(trip.sent_at and now - trip.sent_at >= ASKED_AFTER_S for trip in self._trips.values()):
            self._ask()

    async def close(self, grace_s: float) -> None:
        """Wait at most so long for answers; what has none then ends as `draining`."""
        until = self._clock() + grace_s
        while self._trips and self._clock() < until:
            self._ended.clear()
            try:
                async with asyncio.timeout(until - self._clock()):
                    await self._ended.wait()
            except TimeoutError:
                break
        for trip in list(dict.fromkeys(self._trips.values())):
            self._end(trip, AdmissionError("the server is shutting down; no worker has answered yet", code="draining"))
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._outbox.close()
        await self._dropped.close()

    # -- out ----------------------------------------------------------------------------------------------------------

    def _post(self, trip: Trip) -> None:
        self._number += 1
        id = f"{self._caller}{self._number:x}"
        trip.ids.append(id)
        trip.sent_at = trip.lost_at = 0.0
        self._trips[id] = trip
        self._outbox.put(trip)

    async def _send(self, trips: list[Trip]) -> None:
        now = self._clock()
        waited = [trip for trip in trips if trip.timer is not None and trip.end > now]
        if not waited:
            return
        calls = [Call(trip.ids[-1], trip.form, trip.end - now, trip.body, trip.level) for trip in waited]
        try:
            took = await self._calls.send(calls)
        except Exception as error:
            for trip in waited:
                self._end(trip, _own(error))
            if not isinstance(error, DependencyError):
                log.error("requests could not be sent to workers", exc_info=error)
            return
        sent_at = self._clock()
        for trip, queued in zip(waited, took, strict=True):
            trip.sent_at = sent_at
            if not queued:
                self._end(trip, AdmissionError("too many requests wait for the model's workers", code="queue_full"))

    async def _drop(self, ids: list[str]) -> None:
        try:
            await self._calls.drop(ids)
        except DependencyError:
            pass  # they end by themselves, at their deadlines

    # -- back ---------------------------------------------------------------------------------------------------------

    def _answered(self, answers: Sequence[CallAnswer]) -> None:
        for answer in answers:
            trip = self._trips.get(answer.id)
            if trip is not None:
                self._end(trip, answer.body)

    def _overdue(self, trip: Trip) -> None:
        self._end(trip, DeadlineExceeded("no worker had answered by the request's deadline", stage="waiting"))

    def _end(self, trip: Trip, answer: bytes | ForebayError) -> None:
        if trip.timer is None:
            return
        self._close(trip)
        try:
            trip.on_end(trip.request, answer)
        except Exception:
            log.exception("an answer could not be delivered")

    def _close(self, trip: Trip) -> None:
        assert trip.timer is not None
        trip.timer.cancel()
        trip.timer = None
        for id in trip.ids:
            self._trips.pop(id, None)
        if not self._trips:
            self._ended.set()

    # -- what was lost ------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._look_after())

    async def _look_after(self) -> None:
        """Twice: where are those that were sent?"""
        try:
            await self._look()
            await asyncio.sleep(SECOND_LOOK_S)
            await self._look()
        except DependencyError:
            pass  # asked again after the next look at the workers
        except Exception:
            log.exception("looking for requests whose worker has vanished failed")

    async def _look(self) -> None:
        asked = [trip for trip in dict.fromkeys(self._trips.values()) if trip.sent_at]
        if not asked:
            return
        places = await self._calls.where([trip.ids[-1] for trip in asked])
        now = self._clock()
        for trip, place in zip(asked, places, strict=True):
            if trip.timer is None or not trip.sent_at:
                continue
            if place in self._vanished:
                self._again(trip)
            elif not place and not trip.lost_at:
                trip.lost_at = now
            elif not place and now - trip.lost_at >= SECOND_LOOK_S / 2:
                self._again(trip)

    def _again(self, trip: Trip) -> None:
        """Nobody has it any more, or a worker that has vanished: once more, but not a third time."""
        if len(trip.ids) == 1:
            log.warning("a request whose worker has vanished is sent again")
            self._post(trip)


def _own(error: Exception) -> ForebayError:
    """An error for each of many requests: each raises it, and would hold on to the frames of all."""
    if isinstance(error, DependencyError):
        return error.anew()
    return ForebayError("requests could not be sent to workers; the log says why")
