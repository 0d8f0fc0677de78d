"""The shared cache as one process uses it: within a bounded time, and never an error. Whatever goes wrong is a miss."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec

from forebay.cache.breaker import MEASURE_AGAIN_S, Breaker
from forebay.cache.port import RENEW_EVERY_S, Found, Free, Match, News, SharedCache, ToKeep
from forebay.cache.sightings import Sightings
from forebay.core.clock import Clock
from forebay.core.errors import DependencyError
from forebay.telemetry.cache_metrics import CacheMetrics

log = logging.getLogger("forebay.cache")

ROUND_TRIPS: Final = 5.0
"""A model whose answers take less than so many calls to the store is not looked up there."""
MOST_WRITES: Final = 256
"""Answers on their way to the store; more are not kept there."""
MOST_A_CALL: Final = 64
"""Answers that are looked for in one call: a store does nothing else meanwhile."""
GATHERED_SHARE, LONGEST_GATHERED_S = 0.01, 0.002
"""What is asked waits for more to be asked with it for so much of what an answer takes: a call of its own for each
would cost this process more than all else that the cache does."""
RELEASE_AFTER_S: Final = (0.2, 0.4, 0.8)
"""Until claims end by themselves."""
T = TypeVar("T")
OnFound = Callable[[Found, str], None]
_Asked = tuple[bytes, str, OnFound]
_Computed = tuple[bytes, str, Callable[[], ToKeep], int]
OnNews = Callable[[News], None]


class SharedTier:
    """`start` it once, in a running event loop."""

    def __init__(self, store: SharedCache, timeout_s: float, clock: Clock, metrics: CacheMetrics) -> None:
        """`timeout_s`: of each call."""
        self._store = store
        self._timeout_s = timeout_s
        self._clock = clock
        self._metrics = metrics
        self.breaker = Breaker(clock)
        self._sightings = Sightings()
        self._prefix = secrets.token_urlsafe(9)
        self._number = 0
        self._claims: dict[bytes, str] = {}
        """What this process computes, and others may wait for."""
        self._asked: list[_Asked] = []
        self._computed: list[_Computed] = []
        """Both of the last moment, to be sent together."""
        self._gathering: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[object]] = set()
        self._works: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._waiting: dict[bytes, list[OnNews]] = {}

    def start(self, on_drop: Callable[[Match], object]) -> None:
        """Begin to hear. `on_drop`: forget these here too."""

        def hear(news: News) -> None:
            if news.match is not None:
                on_drop(news.match)
            for tell in self._waiting.pop(news.digest, ()) if news.digest else ():
                tell(news)

        def lost() -> None:
            on_drop(Match())

        self._store.hear(hear, lost)

    @property
    def store(self) -> SharedCache:
        """For what an operator asks: that may take its time, and fails where the store does."""
        return self._store

    def pays(self, cost_s: float) -> bool:
        """Whether it is worth a call where an answer takes so long; 0: that is not known."""
        breaker = self.breaker
        if breaker.rests:
            return False
        trip_s = breaker.round_trip_s
        if not cost_s or not trip_s or cost_s >= ROUND_TRIPS * trip_s:
            return True
        return self._clock() - breaker.measured_at >= MEASURE_AGAIN_S  # it may be quicker by now

    def again(self, digest: bytes) -> bool:
        """Note that this was asked for; whether it was before, so that its answer is worth keeping."""
        return self._sightings.again(digest)

    async def look(self, digest: bytes, *, claims: bool, cost_s: float = 0.0) -> tuple[Found, str]:
        """The answer, or who computes it, and the claim that stands now for the caller, if he is to compute it.
        `cost_s`: what an answer takes; 0: that is not known."""
        answered: asyncio.Future[tuple[Found, str]] = asyncio.get_running_loop().create_future()

        def tell(found: Found, claim: str) -> None:
            if not answered.done():
                answered.set_result((found, claim))

        self.ask(digest, tell, claims=claims, cost_s=cost_s)
        return await answered

    def ask(self, digest: bytes, tell: OnFound, *, claims: bool, cost_s: float = 0.0) -> None:
        """`look`, for whoever has no task of his own. Tells later, never before this returns; and always."""
        self._number += 1
        claim = f"{self._prefix}{self._number:x}" if claims else ""
        self._asked.append((digest, claim, tell))
        self._gather(cost_s)

    def settle(self, digest: bytes, claim: str, answer: Callable[[], ToKeep], cost_s: float = 0.0) -> None:
        """What was claimed is computed, and is kept only if others wait for it; nobody waits for that."""
        self._claims.pop(digest, None)
        self._computed.append((digest, claim, answer, self._store.drops))
        self._gather(cost_s)

    def _gather(self, cost_s: float) -> None:
        """What is to be told until then is one call: the callers of a batch all ask again within moments."""
        if self._gathering is None:
            wait_s = min(GATHERED_SHARE * cost_s, LONGEST_GATHERED_S)
            self._gathering = asyncio.get_running_loop().call_later(wait_s, self._send)

    def _send(self) -> None:
        self._gathering = None
        asked, self._asked = self._asked, []
        computed, self._computed = self._computed, []
        for at in range(0, max(len(asked), len(computed)), MOST_A_CALL):
            self._later(self._exchange(asked[at : at + MOST_A_CALL], computed[at : at + MOST_A_CALL]))

    async def _exchange(self, asked: Sequence[_Asked], computed: Sequence[_Computed]) -> None:
        looks = [(digest, claim) for digest, claim, _ in asked]
        claims = [(digest, claim) for digest, claim, _, _ in computed]
        told = await self._bounded("exchange", lambda: self._store.exchange(looks, claims))
        if told is None:
            self.work(self._release([one for one in looks if one[1]]))
        found, waited = told if told is not None else ([None] * len(asked), ())
        for (digest, claim, tell), one in zip(asked, found, strict=True):
            self._tell(digest, claim, tell, one)
        for digest, claim, answer, drops in computed if waited else ():
            if digest in waited:
                self._later(self._kept(digest, claim, answer(), drops))

    def _tell(self, digest: bytes, claim: str, tell: OnFound, found: Found | None) -> None:
        if not isinstance(found, Free) or not claim:
            claim = ""
        else:
            self._claims[digest] = claim
            if self._renewing is None:
                self._renewing = asyncio.get_running_loop().create_task(self._renew())
        try:
            tell(found if found is not None else Free(), claim)
        except Exception:
            log.exception("what the store of cached answers has could not be told")

    async def _release(self, claims: Sequence[tuple[bytes, str]]) -> None:
        """A call that failed here may have been done there: nobody is to wait for claims that nobody holds."""
        for pause_s in RELEASE_AFTER_S if claims else ():
            await asyncio.sleep(pause_s)
            done = [await self._bounded("fail", lambda one=one: self._failed(one)) for one in claims]  # type: ignore[misc]
            if all(done):
                return

    async def _failed(self, claim: tuple[bytes, str]) -> bool:
        await self._store.fail(*claim)
        return True

    def keep(self, digest: bytes, claim: str, answer: ToKeep) -> None:
        """Keep an answer, unless something is dropped from now on; nobody waits for that. Without a claim it was not
        computed for others."""
        self._claims.pop(digest, None)
        if claim or len(self._calls) < MOST_WRITES:
            self._later(self._kept(digest, claim, answer, self._store.drops))

    def keep_now(self, digest: bytes, answer: ToKeep) -> Coroutine[Any, Any, None]:
        """The same, to wait until it is there, or cannot be."""
        return self._kept(digest, "", answer, self._store.drops)

    async def _kept(self, digest: bytes, claim: str, answer: ToKeep, drops: int) -> None:
        answer = msgspec.structs.replace(answer, drops=drops)
        kept = await self._bounded("keep", lambda: _true(self._store.keep(digest, claim, answer)))
        if kept is None and claim:
            await self._bounded("fail", lambda: self._store.fail(digest, claim))

    def fail(self, digest: bytes, claim: str, error: bytes = b"") -> None:
        """What was claimed has no answer; `error`: what those who wait are told, empty if one of them may try."""
        self._claims.pop(digest, None)
        self._later(self._bounded("fail", lambda: self._store.fail(digest, claim, error)))

    def work(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside the rest, to its end or that of the process."""
        running = asyncio.get_running_loop().create_task(work)
        self._works.add(running)
        running.add_done_callback(self._works.discard)

    def wait(self, digest: bytes, tell: OnNews) -> None:
        """Tell what comes of what somebody else computes, once."""
        self._waiting.setdefault(digest, []).append(tell)

    def wait_no_more(self, digest: bytes, tell: OnNews) -> None:
        """It is of no interest any more."""
        waiting = [one for one in self._waiting.pop(digest, ()) if one is not tell]
        if waiting:
            self._waiting[digest] = waiting

    async def close(self) -> None:
        """Finish what is under way; hear no more."""
        if self._renewing is not None:
            self._renewing.cancel()
        for running in self._works:
            running.cancel()
        if self._gathering is not None:
            self._gathering.cancel()
            self._send()
        if self._calls:
            await asyncio.wait(self._calls)
        await self._store.close()

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while self._claims:
            await asyncio.sleep(RENEW_EVERY_S)
            await self._bounded("renew", lambda: self._store.renew(list(self._claims.items())))
        self._renewing = None

    def _later(self, work: Coroutine[Any, Any, object]) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._calls.add(running)
        running.add_done_callback(self._calls.discard)

    async def _bounded(self, name: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """What comes of a call; None: it failed, took too long, or was not made."""
        breaker = self.breaker
        if not breaker.allows():
            return None
        began = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await call()
        except (DependencyError, TimeoutError) as error:
            self._metrics.failed(name)
            if breaker.failed():
                log.warning("the store of cached answers is left alone for a while: %s", _reason(error))
            return None
        except asyncio.CancelledError:
            breaker.failed()
            raise
        except Exception:
            log.exception("a call to the store of cached answers failed")
            self._metrics.failed(name)
            breaker.failed()
            return None
        if breaker.succeeded(self._clock() - began):
            log.info("the store of cached answers can be used again")
        return found


async def _true(call: Awaitable[None]) -> bool:
    await call
    return True


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, DependencyError) else "it took too long"
