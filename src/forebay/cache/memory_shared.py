"""A `SharedCache` in memory: several caches of one process share a `SharedMemory`. For tests, and as what is meant."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from forebay.cache.port import (
    CLAIM_S,
    OVERHEAD_BYTES,
    WAITED_FOR_S,
    Found,
    Free,
    Match,
    News,
    Stats,
    Stored,
    Taken,
    ToKeep,
)
from forebay.core.clock import Clock

_Kept = tuple[ToKeep, float, float]
"""What is kept, since when, until when."""


class SharedMemory:
    """What is shared. `clock`: seconds."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self.clock = clock
        self.max_bytes = max_bytes
        self.kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self.claims: dict[bytes, tuple[str, float]] = {}
        self.waited_for: set[bytes] = set()
        self.drops = 0
        self.listeners: list[Callable[[News], None]] = []

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        return sum(_nbytes(answer) for answer, _, _ in self.kept.values())


class MemorySharedCache:
    """One process's end of it."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._hears: Callable[[News], None] | None = None
        self.drops = shared.drops
        """So many are heard of."""

    async def exchange(
        self, asked: Sequence[tuple[bytes, str]], computed: Sequence[tuple[bytes, str]] = ()
    ) -> tuple[Sequence[Found], Collection[bytes]]:
        """Answers, or who computes them; and who of those who are computed is waited for."""
        waited = {digest for digest, _ in computed if digest in self._shared.waited_for}
        for digest, claim in computed:
            if digest not in waited:
                self._end(digest, claim)
        return [self._look(digest, claim) for digest, claim in asked], waited

    def _look(self, digest: bytes, claim: str) -> Found:
        shared, now = self._shared, self._shared.clock()
        found = shared.kept.get(digest)
        if found is not None:
            answer, since, until = found
            if now < until:
                shared.kept.move_to_end(digest)
                end = since + answer.age_s + answer.fresh_s if answer.admitted else until
                return Stored(answer.value, now - since, end - now, until - now)
            del shared.kept[digest]
        if not claim:
            return Free()
        held, end = shared.claims.get(digest, ("", 0.0))
        if held and now < end:
            shared.waited_for.add(digest)
            return Taken(end - now)
        shared.claims[digest] = (claim, now + CLAIM_S)
        return Free()

    async def keep(self, digest: bytes, claim: str, answer: ToKeep) -> None:
        """Keep an answer."""
        shared, now = self._shared, self._shared.clock()
        waited = digest in shared.waited_for
        self._end(digest, claim)
        dropped = answer.drops not in (None, shared.drops)
        if (answer.admitted or waited) and not dropped:
            life_s = answer.fresh_s + answer.stale_s
            until = now + (life_s if answer.admitted else min(life_s, WAITED_FOR_S))
            shared.kept.pop(digest, None)
            shared.kept[digest] = (answer, now - answer.age_s, until)
            while shared.nbytes > shared.max_bytes:
                shared.kept.popitem(last=False)
        if waited:
            shared.waited_for.discard(digest)
            self._tell(News(digest, failed=dropped))

    async def fail(self, digest: bytes, claim: str, error: bytes = b"") -> None:
        """End a claim."""
        waited = digest in self._shared.waited_for
        if self._end(digest, claim) and waited:
            self._tell(News(digest, failed=True, error=error))

    def _end(self, digest: bytes, claim: str) -> bool:
        shared = self._shared
        if not claim or shared.claims.get(digest, ("", 0.0))[0] != claim:
            return False
        del shared.claims[digest]
        shared.waited_for.discard(digest)
        return True

    async def renew(self, claims: Sequence[tuple[bytes, str]]) -> None:
        """They stand longer."""
        shared = self._shared
        for digest, claim in claims:
            if shared.claims.get(digest, ("", 0.0))[0] == claim:
                shared.claims[digest] = (claim, shared.clock() + CLAIM_S)

    async def drop(self, match: Match) -> int:
        """Forget answers."""
        gone = [
            digest
            for digest, (answer, _, _) in self._shared.kept.items()
            if match.fits(answer.place, answer.tenant, answer.tags) and match.digest in (b"", digest)
        ]
        for digest in gone:
            del self._shared.kept[digest]
        self._shared.drops += 1
        self._tell(News(match=match))
        return len(gone)

    async def stats(self) -> Stats:
        """What there is."""
        return Stats(len(self._shared.kept), self._shared.nbytes)

    def hear(self, on_news: Callable[[News], None], on_gap: Callable[[], None]) -> None:
        """Tell of news; none is lost from now on."""
        if self.drops != self._shared.drops:
            self.drops = self._shared.drops
            on_gap()

        def hear(news: News) -> None:
            self.drops += news.match is not None
            on_news(news)

        self._hears = hear
        self._shared.listeners.append(hear)

    async def close(self) -> None:
        """Hear no more."""
        if self._hears is not None:
            self._shared.listeners.remove(self._hears)
            self._hears = None

    def _tell(self, news: News) -> None:
        for listener in self._shared.listeners:
            asyncio.get_running_loop().call_soon(listener, news)


def _nbytes(answer: ToKeep) -> int:
    return len(answer.value) + len("".join(answer.tags).encode()) + OVERHEAD_BYTES
