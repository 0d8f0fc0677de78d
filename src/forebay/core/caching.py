"""What is asked of the answer cache, and what it tells: the words that requests, engines and the cache share."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Use = Literal["use", "refresh", "off", "only"]
"""Of the cache: look and keep; keep only (no-cache); neither (no-store); look, and run nothing (only-if-cached)."""
Outcome = Literal["exact", "coalesced", "semantic", "miss"]


class SemanticRules(msgspec.Struct, frozen=True, kw_only=True):
    """When a text is answered with the answer to another one. `embedder`: NAME or NAME/VERSION of a served model.

    `calibrated_for`: digest of the embedder with which `threshold` was measured, and `guard` the version of the guard;
    empty: it was not measured, and the operator has said that this may be so.
    """

    embedder: str
    threshold: float
    guard: int
    calibrated_for: str = ""
    index: Literal["memory", "usearch", "store"] = "memory"
    max_text_bytes: int = 500
    timeout_s: float = 1.0
    shadow_rate: float = 0.0
    max_false_hit_rate: float = 1.0


class CacheRules(msgspec.Struct, frozen=True):
    """How the answers of one model are cached. `coalesces`: equal requests in flight share one computation.
    `semantic`: how near texts are answered alike; None: they are not."""

    ttl_s: float
    stale_s: float = 0.0
    shared: bool = False
    coalesces: bool = False
    semantic: SemanticRules | None = None


class CacheAsk(msgspec.Struct, frozen=True):
    """What one caller wants. `max_age_s`: no older answer; None: any that is served. `tags`: of what is kept. `keeps`:
    whether what is found elsewhere may be kept here, as may the body that asked for it."""

    tenant: str = ""
    use: Use = "use"
    max_age_s: float | None = None
    tags: tuple[str, ...] = ()
    keeps: bool = True

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
