"""`JoinedEngine`: an engine in front of which equal requests in flight share one computation."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Callable

import msgspec

from forebay.cache.entry import Entry
from forebay.cache.memory import MemoryCache
from forebay.cache.single_flight import Flight, OnDone
from forebay.core.caching import JOINED, MISSED, CacheNote
from forebay.core.errors import DeadlineExceeded, ForebayError
from forebay.core.request import Request
from forebay.engine.client import EngineClient
from forebay.engine.flight import nobody
from forebay.engine.forwarded import ForwardedEngine
from forebay.telemetry.cache_metrics import ModelCacheCounts
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

Lone = tuple[bytes, OnDone]
"""The key of a request in flight beside which nobody waits, and whom to tell."""


class JoinedEngine(ForwardedEngine):
    """An `EngineClient` around another one; what begins a computation derives from it."""

    def __init__(
        self, inner: EngineClient, counts: ModelCacheCounts, memory: MemoryCache, clock: Callable[[], float]
    ) -> None:
        super().__init__(inner)
        self.counts = counts
        self.memory = memory
        self.clock = clock
        self._flights: dict[bytes, Flight | Request] = {}
        """What is being computed and may be joined. Most is never joined, and needs no more than its request,
        which then has a `Lone` as `cached`, and stands here for as long as that is so."""
        self._digest = inner.digest
        self._generation = memory.generation
        """Of all that is lone."""

    def _run(self, flight: Flight) -> None:
        """Have the engine compute it. Raises what the engine raises; then nothing has changed."""
        raise NotImplementedError

    # -- what is lone -------------------------------------------------------------------------------------------------

    def _flight_of(self, request: Request) -> Flight | None:
        """The flight in which a request is; what was lone is so no longer. None: it is in none."""
        cached = request.cached
        if type(cached) is tuple:
            return self._opened(request)
        return cached if type(cached) is Flight else None

    def _opened(self, request: Request) -> Flight:
        """What is lone as a flight, beside which others can wait."""
        lone: Lone = request.cached
        key, on_done = lone
        flight = Flight(key, request, on_done, self._generation, self._digest, by_row=True, submitted=True)
        request.cached = self._flights[key] = flight
        return flight

    def _none_lone(self) -> None:
        """Files or what is kept have changed: what began before is told from what begins now."""
        for one in list(self._flights.values()):
            if isinstance(one, Request):
                self._opened(one)
        self._generation = self.memory.generation

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _count_near(self, note: CacheNote, waited_for: bool) -> None:
        self.counts.semantic += waited_for
        self.counts.saved_s += note.kept.compute_s * waited_for

    def _settle(self, flight: Flight, done: Request, entry: Entry | None) -> None:
        """Others may want to know."""

    def _fan_out(self, flight: Flight, done: Request) -> None:
        """The same to those who wait beside it, unless only its own deadline has passed."""
        if isinstance(done.error, DeadlineExceeded):
            self._go_on(flight)
            return
        for follower in flight.take_followers():
            if done.error is not None:
                follower.error = copy.copy(done.error)
            else:
                follower.outputs, follower.row_start = done.outputs, done.row_start
                follower.answered_by = done.answered_by
                if follower is flight.first and flight.near is not None:
                    self._count_near(flight.near, True)
                elif follower is flight.first:
                    self.counts.misses += 1
                else:
                    self.counts.coalesced += 1
                    self.counts.saved_s += self.inner.row_compute_s * follower.rows
            self._end(follower, flight.near or (MISSED if follower is flight.first else JOINED))

    def _refuse_all(self, flight: Flight, error: Exception) -> None:
        """None of those who wait beside it gets an answer."""
        for one in flight.take_followers():
            one.error = copy.copy(error) if isinstance(error, ForebayError) else ForebayError(str(error))
            self._end(one)

    def _end(self, follower: Request, note: CacheNote = JOINED) -> None:
        background = follower.background
        if background is not None:
            background.began = background.began or self.clock()
        follower.cached = note
        try:
            give(follower)
        except Exception:
            log.exception("an answer could not be delivered", extra=fields(model=self.name))

    def _go_on(self, flight: Flight) -> None:
        """The one that ran is too late for its caller; others have more time: one of them runs."""
        now = self.clock()
        for late in flight.take_late(now):
            self._too_late(late)
        waiting = flight.take_followers()
        if not waiting:
            return
        latest = max(waiting, key=lambda one: one.deadline)
        # Not one of theirs: it may have been in the engine's queue before.
        again = msgspec.structs.replace(latest, order=None, pieces=None)
        following = Flight(flight.key, again, None, flight.generation, flight.digest)
        for one in waiting:
            following.join(one)
        try:
            self._run(following)
        except Exception as error:
            self._refuse_all(following, error)
            return
        self._watch(following)

    # -- those who wait beside it -------------------------------------------------------------------------------------

    def _join(self, flight: Flight, request: Request) -> None:
        flight.join(request)
        if request.deadline < flight.runs.deadline and self.inner.waits(flight.runs):
            self._hasten(flight, request.deadline)
        self._watch(flight)

    def _hasten(self, flight: Flight, deadline: float) -> None:
        """What waits in the queue is to be there in time for one who has less: it is queued anew, further in front."""
        before = flight.runs
        again = msgspec.structs.replace(before, deadline=deadline, order=None, pieces=None)
        try:
            self.inner.submit(again)
        except ForebayError:
            return  # there is no earlier place; each keeps its own deadline
        self.inner.cancel(before)
        flight.runs = again
        if flight.on_done is not None:
            before.on_done, flight.on_done = flight.on_done, None
            flight.join(before)

    def _watch(self, flight: Flight) -> None:
        """See to the deadlines of those who wait beside it."""
        due = min((one.deadline for one in flight.followers), default=math.inf)
        if due >= flight.due and flight.timer is not None:
            return
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None
        flight.due = due
        if due < math.inf:
            delay_s = max(0.001, due - self.clock())
            flight.timer = asyncio.get_running_loop().call_later(delay_s, self._look_late, flight)

    def _look_late(self, flight: Flight) -> None:
        flight.timer = None
        for late in flight.take_late(self.clock()):
            self._too_late(late)
        self._watch(flight)
        self._drop_unwanted(flight)

    def _too_late(self, request: Request) -> None:
        request.error = DeadlineExceeded(
            "an equal request is being computed, and was not done by this one's deadline", stage="waiting"
        )
        self._end(request)

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        flight = self._flight_of(request)
        if flight is None:
            self.inner.cancel(request)
            return
        flight.leave(request)
        self._drop_unwanted(flight)

    def _drop_unwanted(self, flight: Flight) -> None:
        """What nobody waits for any more is not computed."""
        if flight.waited_for:
            return
        self._forget(flight)
        flight.take_followers()
        if flight.submitted:
            self.inner.cancel(flight.runs)
            if flight.claim:
                self._settle(flight, flight.runs, None)


def give(request: Request) -> None:
    """Tell the caller of what is answered; once."""
    on_done, request.on_done = request.on_done, nobody
    on_done(request)
