"""`SharedCachedEngine`: a `CachedEngine` that asks other processes too, through the store of cached answers.

While it asks, the request is not in the engine: it waits beside its flight as those do who join it, with its own
deadline. Only a model that takes longer than a few calls to the store asks it at all.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.entry import Entry, KeptRows
from forebay.cache.key import digest_of
from forebay.cache.policy import times
from forebay.cache.port import Found, News, Stored, Taken, ToKeep
from forebay.cache.shared_tier import SharedTier
from forebay.cache.single_flight import Flight
from forebay.cache.value import pack, unpack
from forebay.core.caching import CacheRules
from forebay.core.errors import ExecutionError
from forebay.core.request import Request
from forebay.engine.cached import CachedEngine, missing
from forebay.engine.call_codec import ErrorRecord, error_of
from forebay.engine.client import EngineClient
from forebay.engine.flight import nobody
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

LOOK_AGAIN_S = 0.05
"""After the end of another's claim."""
SPARED_COSTS = 2.0
"""Whoever waits for another's answer keeps the time of so many computations for his own."""
_WEIGHT = 0.1
_encode_error = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(ErrorRecord).decode


class SharedCachedEngine(CachedEngine):
    """An `EngineClient` around another one."""

    def __init__(self, inner: EngineClient, rules: CacheRules, cache: AnswerCache, tier: SharedTier) -> None:
        super().__init__(inner, rules, cache)
        self._tier = tier
        self._submits_alone = False
        self._cost_s = 0.0
        """From arrival to answer where the engine ran, smoothed; 0: it is not known."""
        self._sought: set[Flight] = set()
        """What others are asked for, or compute, and the engine may be asked for next."""

    # -- what is known elsewhere --------------------------------------------------------------------------------------

    def _run_alone(self, key: bytes, request: Request) -> None:
        if self._tier.pays(self._cost_s):
            self._begin(Flight(key, request, request.on_done, self.memory.generation, self._digest))
        else:
            super()._run_alone(key, request)

    def _begin(self, flight: Flight) -> None:
        request = flight.runs
        ask = request.cache
        assert ask is not None
        if not self._tier.pays(self._cost_s):
            self._run(flight)
        elif ask.use == "refresh":
            flight.admitted = True
            self._run(flight)
        else:
            self._ask_others(flight)

    def _look_only(self, key: bytes, request: Request) -> None:
        if not self._tier.pays(self._cost_s):
            raise missing()
        self._ask_others(Flight(key, request, request.on_done, self.memory.generation, self._digest))

    def _ask_others(self, flight: Flight) -> None:
        request = flight.first = flight.runs
        flight.runs = msgspec.structs.replace(request, order=None)
        flight.on_done = None
        flight.join(request)
        ask = request.cache
        assert ask is not None
        if self.rules.coalesces and ask.use == "use":
            self._flights[flight.key] = flight
        self._watch(flight)
        only, digest = ask.use == "only", digest_of(flight.key)
        flight.admitted = self._tier.again(digest) and not only
        claims = self.rules.coalesces and not only and request.background is None  # nobody waits behind a job
        if not only:
            self._sought.add(flight)

        def told(found: Found, claim: str) -> None:
            flight.claim = claim
            if isinstance(found, Taken):
                self._tier.work(self._waiting(flight, digest))
            else:
                entry = None
                try:
                    entry = self._taken_in(flight, found) if isinstance(found, Stored) else None
                except Exception:  # whatever the store holds, those who wait get an answer
                    log.exception("a cached answer could not be used", extra=fields(model=self.name))
                self._go(flight, missing() if only and entry is None else entry)

        self._tier.ask(digest, told, claims=claims, cost_s=self._cost_s)

    async def _waiting(self, flight: Flight, digest: bytes) -> None:
        """Somebody else computes it."""
        try:
            found = await self._found(flight, digest)
        except asyncio.CancelledError:
            self._sought.discard(flight)
            self._forget(flight)
            self._refuse_all(flight, ExecutionError("the server stopped", code="instance_crashed"))
            raise
        except Exception:
            log.exception("others could not be asked for an answer", extra=fields(model=self.name))
            found = None
        self._go(flight, found)

    def _go(self, flight: Flight, found: Entry | Exception | None) -> None:
        """What is known elsewhere goes to all who wait for it; what is not (None) is computed."""
        self._sought.discard(flight)
        if flight.submitted:
            self._give_up_claim(flight)  # it could not wait for it
        elif not flight.waited_for:
            self._forget(flight)
            self._give_up_claim(flight)
        elif isinstance(found, Entry):
            self._forget(flight)
            self._serve_all(found, flight)
        elif isinstance(found, Exception):
            self._forget(flight)
            self._refuse_all(flight, found)
        else:
            if all(one.background is not None for one in flight.followers):
                self._give_up_claim(flight)  # whoever was to wait for more than jobs has left
            self._run_for_all(flight, min)

    def _join(self, flight: Flight, request: Request) -> None:
        sooner = request.deadline < flight.due
        super()._join(flight, request)
        if sooner and flight.on_sooner is not None:
            flight.on_sooner()

    @property
    def pending(self) -> int:
        """See `CachedEngine.pending`."""
        return sum(flight.waited_for for flight in self._sought)

    def hasten(self) -> None:
        """See `CachedEngine.hasten`."""
        for flight in list(self._sought):
            self._go(flight, None)

    def _serve_all(self, entry: Entry, flight: Flight) -> None:
        """Nobody else answers them any more."""
        now = self.clock()
        for one in flight.take_followers():
            try:
                self._serve(entry, one, now)
            except Exception:
                log.exception("a cached answer could not be given", extra=fields(model=self.name))
                if one.on_done is not nobody:
                    one.error = ExecutionError(
                        "a cached answer could not be given; the log says why", code="model_error"
                    )
                    self._end(one)

    def _give_up_claim(self, flight: Flight) -> None:
        if flight.claim:
            self._tier.fail(digest_of(flight.key), flight.claim)
            flight.claim = ""

    async def _found(self, flight: Flight, digest: bytes) -> Entry | Exception | None:
        """What comes of it: an entry, or an error that those who wait are told; None: it is to be computed here."""
        tier = self._tier
        while flight.waited_for and not flight.submitted:
            news: asyncio.Future[News] = asyncio.get_running_loop().create_future()

            def tell(told: News, news: asyncio.Future[News] = news) -> None:
                if not news.done():
                    news.set_result(told)

            tier.wait(digest, tell)
            flight.on_sooner = partial(tell, News(digest))
            try:
                # Again, now that news of it are heard: it may have been done meanwhile.
                found, flight.claim = await tier.look(digest, claims=True, cost_s=self._cost_s)
                if isinstance(found, Stored):
                    return self._taken_in(flight, found)
                if not isinstance(found, Taken):
                    return None
                spare_s = self._spare_s(flight)
                if spare_s <= 0:
                    return None  # to wait longer would leave no time to compute it here
                async with asyncio.timeout(min(found.left_s + LOOK_AGAIN_S, spare_s)):
                    told = await news
            except TimeoutError:
                continue
            finally:
                tier.wait_no_more(digest, tell)
                flight.on_sooner = None
            if told.failed and told.error:
                return error_of(_decode_error(told.error))
        return None

    def _spare_s(self, flight: Flight) -> float:
        """How long all who wait can wait for another's answer, and still get one that is computed here."""
        due = min((one.deadline for one in flight.followers), default=math.inf)
        return due - self.clock() - SPARED_COSTS * self._cost_s

    def _taken_in(self, flight: Flight, found: Stored) -> Entry | None:
        """What another process computed, kept here too. None: it cannot be used."""
        ask = flight.runs.cache
        assert ask is not None
        if ask.max_age_s is not None and found.age_s > ask.max_age_s:
            return None
        try:
            entry = unpack(flight.key, found.value)
        except ValueError:
            return None
        if entry.place != self._place or entry.tenant != ("" if self.rules.shared else ask.tenant):
            return None
        if not self._form.fits(entry, flight.runs):
            return None
        now = self.clock()
        entry.created = now - found.age_s
        entry.refresh_at, _ = times(self.rules, now, found.fresh_s, self._cost_s, next(self._throws).early)
        entry.stale_until = now + found.left_s
        entry.refresh_at = min(entry.refresh_at, entry.stale_until)
        entry.shared = True
        if flight.digest != self.inner.digest:
            entry.refresh_at = entry.stale_until  # the files are others by now: they have no part in it
        elif flight.generation == self.memory.generation and ask.keeps:
            self.memory.put(entry)
        self.counts.shared += 1
        return entry

    async def recall(self, key: bytes, request: Request) -> Entry | None:
        """What is kept here or in the store."""
        entry = await super().recall(key, request)
        if entry is not None:
            return entry
        flight = Flight(key, request, None, self.memory.generation, self._digest)
        found, _ = await self._tier.look(digest_of(key), claims=False)
        return self._taken_in(flight, found) if isinstance(found, Stored) else None

    # -- what others may want -----------------------------------------------------------------------------------------

    def _serve(self, entry: Entry, request: Request, now: float) -> None:
        super()._serve(entry, request, now)
        if entry.shared or (request.cache is not None and not request.cache.keeps):
            return
        if self._tier.pays(self._cost_s):  # asked for a second time
            entry.shared = True
            self._tier.keep(digest_of(entry.key), "", self._to_keep(entry, admitted=True))

    def share(self, entry: Entry) -> Coroutine[Any, Any, None]:
        """Keep it in the store, if it is not there and nothing is dropped from this call on."""
        if entry.shared:
            return super().share(entry)
        entry.shared = True
        return self._tier.keep_now(digest_of(entry.key), self._to_keep(entry, admitted=True))

    def _arrived(self, request: Request) -> KeptRows:
        if request.background is None:
            took_s, known_s = self.clock() - request.arrived, self._cost_s
            self._cost_s = known_s + _WEIGHT * (took_s - known_s) if known_s else took_s
        return super()._arrived(request)

    def _keep(self, flight: Flight, request: Request) -> Entry | None:
        entry = super()._keep(flight, request)
        if entry is not None:
            entry.shared = flight.admitted
        return entry

    def _settle(self, flight: Flight, done: Request, entry: Entry | None) -> None:
        digest = digest_of(flight.key)
        if entry is not None and flight.admitted:
            self._tier.keep(digest, flight.claim, self._to_keep(entry, admitted=True))
        elif entry is not None:
            self._tier.settle(digest, flight.claim, lambda: self._to_keep(entry, admitted=False), self._cost_s)
        elif flight.claim:
            error = done.error
            told = b""
            if isinstance(error, ExecutionError):
                told = _encode_error(ErrorRecord(error.code, error.message))
            self._tier.fail(digest, flight.claim, told)

    def _to_keep(self, entry: Entry, *, admitted: bool) -> ToKeep:
        now, stale_s = self.clock(), self.rules.stale_s
        fresh_s, age_s = entry.stale_until - stale_s - now, now - entry.created
        return ToKeep(pack(entry), entry.place, entry.tenant, entry.tags, fresh_s, stale_s, admitted, age_s)


def cached_engine(inner: EngineClient, rules: CacheRules, cache: AnswerCache) -> CachedEngine:
    """An engine whose answers are kept, and shared where there is a store for that."""
    if cache.tier is None:
        return CachedEngine(inner, rules, cache)
    return SharedCachedEngine(inner, rules, cache, cache.tier)
