"""`CachedEngine`: an engine in front of which answers are kept, and equal requests in flight share one computation."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import struct

import msgspec

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.entry import OVERHEAD_BYTES, Entry, KeptRows, OutputForm
from forebay.cache.key import LONGEST_KEY_BYTES, KeyMaker
from forebay.cache.policy import MOST_INPUT_BYTES, throws, times
from forebay.cache.single_flight import Flight, OnDone
from forebay.core.caching import JOINED, MISSED, USUAL_ASK, CacheAsk, CacheNote, CacheRules
from forebay.core.errors import CacheMiss, DeadlineExceeded, ForebayError
from forebay.core.request import Outputs, Request
from forebay.engine.client import Duration, EngineClient, EngineStatistics
from forebay.engine.flight import nobody
from forebay.engine.forwarded import ForwardedEngine
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

REFRESH_PRIORITY = 2
"""Of what is computed anew before its end: behind all that somebody waits for."""
REFRESH_AGAIN_S = 1.0
"""After one that failed, at the earliest."""


class CachedEngine(ForwardedEngine):
    """An `EngineClient` around another one. A request with `cache` set to None passes it by."""

    def __init__(self, inner: EngineClient, rules: CacheRules, cache: AnswerCache) -> None:
        super().__init__(inner)
        self.rules = rules
        self.counts = cache.metrics.of(inner.name, inner.version)
        self.memory = cache.memory
        self._entries, self._kept_rows = cache.memory.entries, cache.memory.rows
        self._max_bytes = cache.max_entry_bytes + OVERHEAD_BYTES
        self.clock = cache.clock
        self._digest = inner.digest
        self._keys = KeyMaker(self.name, self.version, self._digest, self.signature)
        self._flights: dict[bytes, Flight] = {}
        """What is being computed and may be joined."""
        self._place = (self.name, self.version)
        self._form = OutputForm(self.signature)
        self._throws = throws()
        self._last: Outputs | None = None
        self._rows = KeptRows(self._place, (), b"", 0, 0.0, 0.0, 0.0, 0.0)
        """What is kept of `_last`, the batch that came last: its answers are given one after the other."""
        self._keeps_rows = 0 < self._form.row_bytes <= cache.max_entry_bytes - LONGEST_KEY_BYTES
        self._on_done: OnDone = self._done

    def statistics(self) -> EngineStatistics:
        """Counts since the start; what the cache answered stands beside what the engine did."""
        counts = self.counts
        return msgspec.structs.replace(
            self.inner.statistics(),
            cache_hit=Duration(counts.hits + counts.coalesced + counts.semantic, int(counts.hit_s * 1e9)),
            cache_miss=Duration(counts.misses, 0),
        )

    # -- in -----------------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`. Raises `CacheMiss` where only what is kept is wanted."""
        ask = request.cache
        if ask is None:
            self.inner.submit(request)
            return
        key = self._key(request, ask)
        if key is None:
            if ask.use == "only":
                raise missing()
            self.inner.submit(request)
            return
        if ask.use != "refresh":
            if self.memory.pending is not None:
                self.memory.settle()
            if key in self._entries or key in self._kept_rows:
                now = self.clock()
                entry = self.memory.get(key, now)
                if entry is not None and (ask.max_age_s is None or now - entry.created <= ask.max_age_s):
                    self._serve(entry, request, now)
                    return
            if ask.use == "only":
                self._look_only(key, request)
                return
            flight = self._flights.get(key)
            if flight is not None and flight.joinable(request):
                self._join(flight, request)
                return
        self._begin(Flight(key, request, request.on_done, self.memory.generation, self._digest))

    def knows(self, request: Request) -> bool:
        """Whether an answer to it is here, which it has not been given."""
        ask = request.cache
        key = self._key(request, ask) if ask is not None and ask.use == "use" else None
        return key is not None and self.memory.get(key, self.clock()) is not None

    def _key(self, request: Request, ask: CacheAsk) -> bytes | None:
        """None: this request is not for the cache."""
        usual = ask is USUAL_ASK
        if request.explain or request.listener is not None or not (usual or ask.use != "off"):
            return None
        if not 0 < request.nbytes <= MOST_INPUT_BYTES or not request.rows:
            return None
        digest = self.inner.digest
        if digest is not self._digest or not digest:
            if not digest:
                return None  # workers have different files
            if digest != self._digest:  # a model of workers that was announced anew
                self._keys = KeyMaker(self.name, self.version, digest, self.signature)
            self._digest = digest
        try:
            return self._keys.of(request, "" if usual or self.rules.shared else ask.tenant)
        except (struct.error, OverflowError):
            return None  # the engine says what is wrong

    def _look_only(self, key: bytes, request: Request) -> None:
        """It is not known here, and nothing is to be run."""
        raise missing()

    def _run(self, flight: Flight) -> None:
        """Have the engine compute it. Raises what the engine raises; then nothing has changed."""
        request = flight.runs
        request.cached = flight
        request.on_done = self._on_done
        flight.by_row = (
            self._keeps_rows
            and request.cache is USUAL_ASK
            and request.rows == 1
            and request.requested is None
            and not (flight.claim or flight.admitted)
        )
        if self.rules.coalesces:
            self._flights[flight.key] = flight
        try:
            self.inner.submit(request)
            flight.submitted = True
        except BaseException:
            self._forget(flight)
            request.cached = None
            if flight.on_done is not None:
                request.on_done = flight.on_done
            raise

    _begin = _run
    """What is done with what is not known here."""

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    # -- what is kept -------------------------------------------------------------------------------------------------

    def _serve(self, entry: Entry, request: Request, now: float) -> None:
        """Answer from an entry. A job's caller does not expect its answer before `submit` returns."""
        self._form.answer(entry, request)
        request.cached = CacheNote("exact", entry.told_id(), now - entry.created, None, entry)
        self.served(entry, now - request.arrived)
        if now >= entry.refresh_at:
            self._refresh(entry, request, now)
        if request.background is not None:
            asyncio.get_running_loop().call_soon(_give, request)
        else:
            _give(request)

    def served(self, entry: Entry, took_s: float) -> None:
        """Count an answer from the cache."""
        counts = self.counts
        counts.hits += 1
        counts.saved_s += entry.compute_s
        counts.hit_s += took_s

    def _refresh(self, entry: Entry, request: Request, now: float) -> None:
        """Compute an answer anew that is served meanwhile."""
        entry.refresh_at = min(now + max(REFRESH_AGAIN_S, entry.compute_s), entry.stale_until)
        ask = request.cache
        assert ask is not None
        anew = msgspec.structs.replace(
            request,
            arrived=now,
            deadline=now + self.inner.default_timeout_s,
            priority=REFRESH_PRIORITY,
            wire=None,
            background=None,
            outputs=None,
            cache=CacheAsk(entry.tenant, "refresh", None, entry.tags),
        )
        try:
            self._begin(Flight(entry.key, anew, None, self.memory.generation, self._digest))
            self.counts.refreshes += 1
        except ForebayError:
            pass  # it is tried again while the answer is served

    def _keep(self, flight: Flight, request: Request) -> Entry | None:
        """Keep an answer. Returns its entry if it has one of its own by now."""
        ask, memory, digest = request.cache, self.memory, flight.digest
        if ask is None or flight.generation != memory.generation:
            return None
        if digest != self.inner.digest or (request.ran_on and request.ran_on != digest):
            return None  # it may have run on other files than those that its key is about
        rows = self._rows
        if request.outputs is not self._last or rows.closed:
            self._last = request.outputs
            rows = self._rows = self._arrived(request)
        if flight.by_row and rows.data:
            if memory.pending is not rows:
                memory.settle()
                memory.pending = rows
                self._keep_others(rows, flight, request)
            rows.starts[flight.key] = request.row_start
            return None
        if ask.use == "use" and ask.max_age_s is None and not flight.claim and memory.peek(flight.key) is not None:
            return None  # it came meanwhile: from what was to be computed anew, after this began
        shapes, data, size_bytes = self._form.kept(request)
        nbytes = OVERHEAD_BYTES + len(flight.key) + size_bytes
        if nbytes > self._max_bytes:
            return None
        tenant = "" if self.rules.shared else ask.tenant
        times = rows.created, rows.refresh_at, rows.stale_until, rows.compute_s * request.rows
        entry = Entry(flight.key, self._place, tenant, ask.tags, request.rows, shapes, data, nbytes, *times)
        memory.put(entry)
        if flight.on_kept is not None:
            flight.on_kept(entry)
        return entry

    def _keep_others(self, rows: KeptRows, first: Flight, request: Request) -> None:
        """Do for the others of a batch what `_done` would do for each of them, in one go: their callers are then told
        without it. Those for which there is more to do are left to it.
        """
        assert request.outputs is not None
        flights, starts, on_done = self._flights, rows.starts, self._on_done
        generation, digest = first.generation, first.digest
        row = kept = 0
        for item in request.outputs.items:
            if item.on_done is on_done:
                flight: Flight = item.cached
                if flight.by_row and flight.generation == generation and flight.digest is digest and not item.ran_on:
                    key, told = flight.key, flight.on_done
                    if told is not None and not flight.followers:
                        starts[key] = row
                        if flights.get(key) is flight:
                            del flights[key]
                        item.cached, item.on_done = MISSED, told
                        kept += 1
            row += item.rows
        self.counts.misses += kept

    def _arrived(self, request: Request) -> KeptRows:
        """What holds of all answers of a batch, of which this is the first."""
        now, background, throw = self.clock(), request.background, next(self._throws)
        took_s = background.compute_s if background is not None else now - request.arrived
        refresh_at, stale_until = times(self.rules, now, self.rules.ttl_s * throw.jitter, took_s, throw.early)
        row_s = self.inner.row_compute_s or took_s / max(1, request.rows)
        shapes, data = self._form.rows(request)
        row_bytes = self._form.row_bytes
        return KeptRows(self._place, shapes, data, row_bytes, now, refresh_at, stale_until, row_s)

    async def recall(self, key: bytes, request: Request) -> Entry | None:
        """What is kept under another request's key, to answer this one. It is not counted as served."""
        return self.memory.get(key, self.clock())

    async def share(self, entry: Entry) -> None:
        """Others may want it: returns once they can have it."""

    # -- the answer ---------------------------------------------------------------------------------------------------

    def _done(self, request: Request) -> None:
        """The engine has answered."""
        flight: Flight = request.cached
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        request.cached = flight.near or MISSED
        entry = None
        if flight.near is not None:
            self._count_near(flight.near, flight.on_done is not None)
        elif request.error is None:
            self.counts.misses += flight.on_done is not None  # not what is computed anew
            try:
                entry = self._keep(flight, request)
            except Exception:
                log.exception("an answer could not be kept", extra=fields(model=self.name))
        if flight.claim or flight.admitted:
            self._settle(flight, request, entry)
        try:
            if flight.on_done is not None:
                flight.on_done(request)
        finally:
            if flight.followers:
                self._fan_out(flight, request)

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
            _give(follower)
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
        flight = request.cached
        if type(flight) is not Flight:
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


def _give(request: Request) -> None:
    on_done, request.on_done = request.on_done, nobody
    on_done(request)


def missing() -> CacheMiss:
    """Only what is kept was wanted."""
    return CacheMiss("no answer to this request is in the cache, and only that was asked for (only-if-cached)")
