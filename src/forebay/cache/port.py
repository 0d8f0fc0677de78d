"""The port of answers that several processes share: `SharedCache`.

Answers are known by a digest. Beside them stand claims: who holds that of a digest computes it, and others wait for
what comes of it. Whoever dies with a claim loses it after `CLAIM_S`. Errors are `DependencyError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec

CLAIM_S: Final = 3.0
"""How long a claim stands that is not renewed."""
RENEW_EVERY_S: Final = 1.0
OVERHEAD_BYTES: Final = 1000
"""What an answer counts for in the store beside its value, which is most of a small one: its hash, its key, its place
in the order. Measured: 940 to 990 bytes in Redis 8.0, 640 in Valkey; about half where the value has up to 64."""
WAITED_FOR_S: Final = 10.0
"""How long an answer is kept that others wait for, and that is not to be kept otherwise."""


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which answers are meant: those for which all that is given holds. `tenant` None: of any."""

    tenant: str | None = None
    model: str = ""
    version: str = ""
    tag: str = ""
    digest: bytes = b""

    def fits(self, place: tuple[str, str], tenant: str, tags: Sequence[str]) -> bool:
        """Whether an answer is one of them, apart from `digest`."""
        return (
            (self.tenant is None or self.tenant == tenant)
            and (not self.model or self.model == place[0])
            and (not self.version or self.version == place[1])
            and (not self.tag or self.tag in tags)
        )


class Stored(msgspec.Struct, frozen=True):
    """An answer that was found. `fresh_s`: how much longer it is fresh; below 0 it is stale, and may still be served.
    `left_s`: when it ends."""

    value: bytes
    age_s: float
    fresh_s: float
    left_s: float


class Taken(msgspec.Struct, frozen=True):
    """There is none, and somebody computes it; unless he renews it, his claim ends in `left_s`."""

    left_s: float


class Free(msgspec.Struct, frozen=True):
    """There is none. If a claim was offered it stands now."""


Found = Stored | Taken | Free


class ToKeep(msgspec.Struct, frozen=True):
    """An answer to be kept. `fresh_s`: how much longer it is fresh; below 0 it is stale. `stale_s`: how long it may be
    served after that. `admitted`: not only for those who wait for it. `drops`: what `SharedCache.drops` was when it was
    known that nothing had dropped it; None: it cannot have been dropped."""

    value: bytes
    place: tuple[str, str]
    tenant: str
    tags: tuple[str, ...]
    fresh_s: float
    stale_s: float
    admitted: bool = True
    age_s: float = 0.0
    drops: int | None = None


class News(msgspec.Struct, frozen=True):
    """What somebody did. With a `digest`: what was waited for is there, or (`failed`) is not; `error`: what is to be
    told instead, empty where it is worth another try. With a `match`: these were dropped."""

    digest: bytes = b""
    failed: bool = False
    error: bytes = b""
    match: Match | None = None


class Stats(msgspec.Struct, frozen=True):
    """What is kept, as far as it is counted. `nbytes`: of the values and tags, and `OVERHEAD_BYTES` of
    each."""

    entries: int
    nbytes: int


class SharedCache(Protocol):
    """Answers of several processes. Bounded in bytes by its maker; the least recently used go first."""

    drops: int
    """A number that is another one whenever something was dropped that this process has heard of. It changes in the
    step in which that is told."""

    async def exchange(
        self, asked: Sequence[tuple[bytes, str]], computed: Sequence[tuple[bytes, str]] = ()
    ) -> tuple[Sequence[Found], Collection[bytes]]:
        """Look for answers, and tell of some that are computed and not to be kept, in one call.

        `asked`: digests, each with what the caller's claim is to be if it is free; without one (empty), nothing is
        claimed, and it is always `Free`. `computed`: digests and the claims on them, which end.

        Returns of each that is asked for the answer, or else whether somebody computes it; and those of `computed` that
        somebody waits for: their claims stand until `keep`. What is computed is seen to first.
        """
        ...

    async def keep(self, digest: bytes, claim: str, answer: ToKeep) -> None:
        """Keep an answer if it is admitted, or somebody waits for it; the claim ends, and those who wait are told.

        One from before a drop, by its `drops`, is not kept, whether its process has heard of the drop or not."""
        ...

    async def fail(self, digest: bytes, claim: str, error: bytes = b"") -> None:
        """The claim ends without an answer; those who wait are told."""
        ...

    async def renew(self, claims: Sequence[tuple[bytes, str]]) -> None:
        """Whoever computes these is there still."""
        ...

    async def drop(self, match: Match) -> int:
        """Forget answers, here and in every process that hears of it; returns how many there were here.

        Others may hear of it twice: what they find here before its end may be what is to be forgotten."""
        ...

    async def stats(self) -> Stats:
        """What there is."""
        ...

    def hear(self, on_news: Callable[[News], None], on_gap: Callable[[], None]) -> None:
        """Tell of news from now on. `on_gap`: something may have been dropped, before this too, and it is not known
        what. Called once."""
        ...

    async def close(self) -> None:
        """Hear no more."""
        ...
