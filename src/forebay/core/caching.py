"""What is asked of the answer cache, and what it tells: the words that requests, engines and the cache share."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Use = Literal["use", "refresh", "off", "only"]
"""Of the cache: look and keep; keep only (no-cache); neither (no-store); look, and run nothing (only-if-cached)."""
Outcome = Literal["exact", "coalesced", "semantic", "miss"]


class CacheRules(msgspec.Struct, frozen=True):
    """How the answers of one model are cached. `coalesces`: equal requests in flight share one computation."""

    ttl_s: float
    stale_s: float = 0.0
    shared: bool = False
    coalesces: bool = False


class CacheAsk(msgspec.Struct, frozen=True):
    """What one caller wants. `max_age_s`: no older answer; None: any that is served. `tags`: of what is kept."""

    tenant: str = ""
    use: Use = "use"
    max_age_s: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether any answer that is kept will do."""
        return self.use == "use" and self.max_age_s is None and not self.tags


USUAL_ASK: Final = CacheAsk()
"""Always this object for a caller without a key who says nothing of the cache."""


class CacheNote(msgspec.Struct, frozen=True):
    """What the cache did with a request that is answered. `entry`: the id of what was served; `kept`: belongs to the
    cache, what was served."""

    outcome: Outcome
    entry: str = ""
    age_s: float = 0.0
    score: float | None = None
    kept: Any = None


MISSED: Final = CacheNote("miss")
JOINED: Final = CacheNote("coalesced")
