"""`JoinedEngine`: an engine in front of which equal requests in flight share one computation."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Callable, Iterable

import msgspec

from forebay.batching.batcher import level_of
from forebay.cache.entry import Entry
from forebay.cache.memory import MemoryCache
from forebay.cache.single_flight import Flight, OnDone
from forebay.core.caching import JOINED, MISSED, CacheNote
from forebay.core.errors import AdmissionError, DeadlineExceeded, ForebayError
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
        """The same to those who wait beside it, unless it only had too little time itself."""
        if done.error is not None and _lacks_time(done.error):
            self._go_on(flight, done.error)
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
            self._refuse(one, error)

    def _refuse(self, follower: Request, error: Exception) -> None:
        follower.error = copy.copy(error) if isinstance(error, ForebayError) else ForebayError(str(error))
        self._end(follower)

    def _end(self, follower: Request, note: CacheNote = JOINED) -> None:
        background = follower.background
        if background is not None:
            background.began = background.began or self.clock()
        follower.cached = note
        try:
            give(follower)
        except Exception:
            log.exception("an answer could not be delivered", extra=fields(model=self.name))

    def _go_on(self, flight: Flight, error: ForebayError) -> None:
        """The one that ran had too little time. Those who have no more are told so; for the others one of them runs."""
        ran, now = flight.runs, self.clock()
        following = Flight(flight.key, ran, None, flight.generation, flight.digest)
        following.sought, following.on_kept = flight.sought, flight.on_kept
        for one in flight.take_followers():
            if _has_no_more_time(one, ran):
                self._refuse(one, error)
            elif one.deadline <= now:
                self._too_late(one)
            else:
                following.join(one)
        if following.followers:
            self._run_for_all(following, max)

    def _run_for_all(self, flight: Flight, pick: Callable[..., Request]) -> None:
        """Have it computed for those who wait beside it, as by the one with the least or the most time (`pick`: `min`,
        `max`); or tell them why not. As a job only where all of them are: those stand behind all requests."""
        waiting = [one for one in flight.followers if one.background is None] or flight.followers
        flight.first = chosen = pick(waiting, key=lambda one: one.deadline)
        # Not one of theirs: it may have been in the engine's queue before.
        flight.runs = msgspec.structs.replace(
            chosen, priority=_best_priority(waiting), cache=flight.runs.cache, order=None, pieces=None
        )
        try:
            self._run(flight)
        except Exception as error:
            if flight.claim:
                self._settle(flight, flight.runs, None)
            if isinstance(error, ForebayError) and _lacks_time(error):
                self._go_on(flight, error)
            else:
                self._refuse_all(flight, error)
            return
        self._watch(flight)

    # -- those who wait beside it -------------------------------------------------------------------------------------

    def _join(self, flight: Flight, request: Request) -> None:
        flight.join(request)
        runs = flight.runs
        if request.background is None and self.inner.waits(runs):
            deadline, priority = min(runs.deadline, request.deadline), _best_priority((runs, request))
            if deadline < runs.deadline or priority != runs.priority:
                self._hasten(flight, deadline, priority)
        self._watch(flight)

    def _hasten(self, flight: Flight, deadline: float, priority: int) -> None:
        """What waits in the queue is to be there in time for one who has less, or comes before it: it is queued anew,
        further in front."""
        before = flight.runs
        again = msgspec.structs.replace(before, deadline=deadline, priority=priority, order=None, pieces=None)
        try:
            self.inner.submit(again)
        except ForebayError:
            return  # there is no earlier place; each keeps its own deadline
        self.inner.cancel(before)
        flight.runs = again
        if flight.on_done is not None:
            before.on_done, flight.on_done = flight.on_done, None
            flight.first = before
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


def _lacks_time(error: ForebayError) -> bool:
    """Whether it says nothing to those who have more time."""
    return isinstance(error, DeadlineExceeded) or (
        isinstance(error, AdmissionError) and error.code == "deadline_unreachable"
    )


def _has_no_more_time(one: Request, ran: Request) -> bool:
    """Than the one that ran had. A job's time counts from when it runs: too little it had only if it did."""
    if one.background is not None:
        return one.background is ran.background
    return one.deadline <= ran.deadline


def _best_priority(requests: Iterable[Request]) -> int:
    return min((one.priority for one in requests), key=level_of)


def give(request: Request) -> None:
    """Tell the caller of what is answered; once."""
    on_done, request.on_done = request.on_done, nobody
    on_done(request)
