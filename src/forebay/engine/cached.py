"""`CachedEngine`: an engine in front of which answers are kept, and equal requests in flight share one computation."""

from __future__ import annotations

import asyncio
import logging
import struct

import msgspec

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.entry import OVERHEAD_BYTES, Entry, KeptRows, OutputForm, nbytes_of
from forebay.cache.key import LONGEST_KEY_BYTES, KeyMaker
from forebay.cache.policy import MOST_INPUT_BYTES, throws, times
from forebay.cache.single_flight import Flight, OnDone
from forebay.core.caching import MISSED, USUAL_ASK, CacheAsk, CacheNote, CacheRules
from forebay.core.errors import CacheMiss, ForebayError
from forebay.core.request import Outputs, Request
from forebay.engine.client import Duration, EngineClient, EngineStatistics
from forebay.engine.joined import JoinedEngine, give
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

REFRESH_PRIORITY = 2
"""Of what is computed anew before its end: behind all that somebody waits for."""
REFRESH_AGAIN_S = 1.0
"""After one that failed, at the earliest."""


class CachedEngine(JoinedEngine):
    """An `EngineClient` around another one. A request with `cache` set to None passes it by."""

    def __init__(self, inner: EngineClient, rules: CacheRules, cache: AnswerCache) -> None:
        super().__init__(inner, cache.metrics.of(inner.name, inner.version), cache.memory, cache.clock)
        self.rules = rules
        self._entries, self._kept_rows = cache.memory.entries, cache.memory.rows
        self._max_bytes = cache.max_entry_bytes + OVERHEAD_BYTES
        self._keys = KeyMaker(self.name, self.version, self._digest, self.signature)
        self._place = (self.name, self.version)
        self._form = OutputForm(self.signature)
        self._throws = throws()
        self._last: Outputs | None = None
        self._rows = KeptRows(self._place, (), b"", 0, 0.0, 0.0, 0.0, 0.0)
        """What is kept of `_last`, the batch that came last: its answers are given one after the other."""
        self._keeps_rows = 0 < self._form.row_bytes <= cache.max_entry_bytes - LONGEST_KEY_BYTES
        self._flies_alone = self._keeps_rows and rules.coalesces and rules.semantic is None
        """Whether what is begun may be lone."""
        self._submits_alone = self._flies_alone
        """Whether it is, without anything else to be asked first."""
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
        if ask is USUAL_ASK and self._submits_alone and self._submitted_alone(request):
            return
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
            before = self._flights.get(key)
            if before is None:
                if self._flies_alone and request.rows == 1 and ask is USUAL_ASK and request.requested is None:
                    self._run_alone(key, request)
                    return
            else:
                flight = self._opened(before) if isinstance(before, Request) else before
                if flight.joinable(request) and self._new_enough(flight, ask):
                    self._join(flight, request)
                    return
        self._begin(Flight(key, request, request.on_done, self.memory.generation, self._digest))

    def _submitted_alone(self, request: Request) -> bool:
        """What `submit` does with a request like most: one row, nothing special wanted, seen for the first time. In one
        step, since this is what the cache costs where nothing comes twice. False: it is not such a one."""
        memory, inner, flights = self.memory, self.inner, self._flights
        if request.rows != 1 or request.explain or request.listener is not None:
            return False
        if not 0 < request.nbytes <= MOST_INPUT_BYTES:
            return False
        if inner.digest is not self._digest or not self._digest or memory.generation != self._generation:
            return False
        if memory.pending is not None:
            memory.settle()
        try:
            key = self._keys.usual(request)
        except (struct.error, OverflowError):
            return False  # the engine says what is wrong
        if key is None or key in self._kept_rows or key in flights or key in self._entries:
            return False
        request.cached = key, request.on_done
        request.on_done = self._on_done
        flights[key] = request
        try:
            inner.submit(request)
        except BaseException:
            self._never_flew(request)
            raise
        return True

    def knows(self, request: Request) -> bool:
        """Whether an answer to it is here, which it has not been given."""
        ask = request.cache
        if ask is None or ask.use not in ("use", "only") or (key := self._key(request, ask)) is None:
            return False
        now = self.clock()
        entry = self.memory.get(key, now)
        return entry is not None and (ask.max_age_s is None or now - entry.created <= ask.max_age_s)

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
                self._none_lone()
                self._keys = KeyMaker(self.name, self.version, digest, self.signature)
            self._digest = digest
        try:
            return self._keys.of(request, "" if usual or self.rules.shared else ask.tenant)
        except (struct.error, OverflowError):
            return None  # the engine says what is wrong

    def _new_enough(self, flight: Flight, ask: CacheAsk) -> bool:
        """Whether no answer comes of it that is too old for this caller: it is being computed, or is for one who wants
        none that is older."""
        if ask.max_age_s is None or (flight.submitted and (flight.sought or self.rules.semantic is None)):
            return True
        theirs = flight.runs.cache
        return theirs is not None and theirs.max_age_s is not None and theirs.max_age_s <= ask.max_age_s

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
            and not (flight.claim or flight.admitted or flight.on_kept)
        )
        if self.rules.coalesces:
            before = self._flights.get(flight.key)
            if isinstance(before, Request):
                self._opened(before)
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

    def _run_alone(self, key: bytes, request: Request) -> None:
        """`_run` where nothing has to be known of the flight but the key: it has no cost beside the engine's."""
        if self._generation != self.memory.generation:
            self._none_lone()
        request.cached = key, request.on_done
        request.on_done = self._on_done
        self._flights[key] = request
        try:
            self.inner.submit(request)
        except BaseException:
            self._never_flew(request)
            raise

    def _never_flew(self, request: Request) -> None:
        """The engine has not taken what was to be lone."""
        flight = self._flight_of(request)
        if flight is not None and flight.on_done is not None:
            self._forget(flight)
            request.cached = None
            request.on_done = flight.on_done

    @property
    def pending(self) -> int:
        """What is not with the engine yet, since it is sought elsewhere."""
        return 0

    def hasten(self) -> None:
        """The engine is about to take nothing more: what is sought elsewhere goes there while it still may."""

    _begin = _run
    """What is done with what is not known here."""

    # -- what is kept -------------------------------------------------------------------------------------------------

    def _serve(self, entry: Entry, request: Request, now: float) -> None:
        """Answer from an entry. A job's caller does not expect its answer before `submit` returns."""
        self._form.answer(entry, request)
        request.cached = CacheNote("exact", entry.told_id(), now - entry.created, None, entry)
        self.served(entry, now - request.arrived)
        if now >= entry.refresh_at:
            self._refresh(entry, request, now)
        if request.background is not None:
            asyncio.get_running_loop().call_soon(give, request)
        else:
            give(request)

    def served(self, entry: Entry, took_s: float) -> None:
        """Count an answer from the cache."""
        counts = self.counts
        counts.hits += 1
        counts.saved_s += entry.compute_s
        counts.hit_s += took_s

    def _refresh(self, entry: Entry, request: Request, now: float) -> None:
        """Compute an answer anew that is served meanwhile, unless it is served to one for whom nothing may be run."""
        ask = request.cache
        assert ask is not None
        if ask.use == "only":
            return
        entry.refresh_at = min(now + max(REFRESH_AGAIN_S, entry.compute_s), entry.stale_until)
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
        rows = self._rows_of(request)
        if flight.by_row and rows.data:
            if memory.pending is not rows:
                memory.settle()
                memory.pending = rows
            rows.starts[flight.key] = request.row_start
            return None
        if ask.use == "use" and ask.max_age_s is None and not flight.claim and memory.peek(flight.key) is not None:
            return None  # it came meanwhile: from what was to be computed anew, after this began
        shapes, data, size_bytes = self._form.kept(request)
        nbytes = nbytes_of(flight.key, ask.tags, size_bytes)
        if nbytes > self._max_bytes:
            return None
        tenant = "" if self.rules.shared else ask.tenant
        times = rows.created, rows.refresh_at, rows.stale_until, rows.compute_s * request.rows
        entry = Entry(flight.key, self._place, tenant, ask.tags, request.rows, shapes, data, nbytes, *times)
        memory.put(entry)
        if flight.on_kept is not None:
            flight.on_kept(entry)
        return entry

    def _rows_of(self, request: Request) -> KeptRows:
        """Of the batch in which it ran."""
        if request.outputs is not self._last or self._rows.closed:
            self._rows = self._arrived(request)
            self._last = request.outputs
        return self._rows

    def _keep_lone(self, request: Request) -> bool:
        """Keep the answer to what was lone, and with it those to all such of its batch in one go: their callers are
        then told without `_done`. False where there is more to do.
        """
        outputs, memory, digest = request.outputs, self.memory, self._digest
        if outputs is None or memory.generation != self._generation or self.inner.digest is not digest:
            return False
        if request.ran_on and request.ran_on != digest:
            return False
        try:
            rows = self._rows_of(request)
            if not rows.data:
                return False
            if memory.pending is not rows:
                memory.settle()
                memory.pending = rows
        except Exception:
            return False  # `_keep` meets it again, and tells of it
        flights, starts, on_done = self._flights, rows.starts, self._on_done
        key, _ = request.cached
        starts[key] = request.row_start
        del flights[key]
        row, kept = 0, 1
        for item in outputs.items:
            if item.on_done is on_done:
                lone = item.cached
                if type(lone) is tuple and (not item.ran_on or item.ran_on == digest):
                    key, item.on_done = lone
                    starts[key] = row
                    del flights[key]
                    item.cached = MISSED
                    kept += 1
            row += item.rows
        outputs.items = ()  # the next of them has nothing more to look for
        self.counts.misses += kept
        return True

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
        cached = request.cached
        if type(cached) is tuple and request.error is None and self._keep_lone(request):
            request.cached = MISSED
            cached[1](request)
            return
        flight = self._flight_of(request)
        assert flight is not None
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


def missing() -> CacheMiss:
    """Only what is kept was wanted."""
    return CacheMiss("no answer to this request is in the cache, and only that was asked for (only-if-cached)")
