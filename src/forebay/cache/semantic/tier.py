"""The semantic tier: a text that asks what another one asked, after the exact tier has missed.

Two steps, so that a text which differs in case or spaces needs no vector: `same_words`, then `lookup` with the vector;
`find` takes both. What fails in any way is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np

from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.index import UNKNOWN, Kept, Match, Origin, SemanticIndex, Way
from forebay.cache.semantic.normalise import normalised
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.prompt import to_embed
from forebay.core.errors import DeadlineExceeded, DependencyError, ForebayError
from forebay.core.tensors import Array

log = logging.getLogger("forebay.cache")

_TELL_EVERY_S = 10.0
"""What fails is told once in so long: it may fail for every request."""

Verifier = Callable[[str, str], Awaitable[bool]]
"""Asked last, with the text and the kept one, whether one answer serves both: a cross-encoder, a language model."""


class Hit(NamedTuple):
    """The kept entry that may answer, and how it was found."""

    entry_id: str
    text: str
    score: float
    way: Way


class Found(NamedTuple):
    """What `find` found, and the vector that it made: with it the answer is stored after a miss."""

    hit: Hit | None
    vector: Array | None


class SemanticTier:
    """One for each model. `counts` says what became of lookups: `normalised`, `semantic`, `none_near`, `too_long`,
    `off`, `index_error`, `embed_error`, `timeout`, `verifier`, `verifier_error`, `vector`, or `guard_` and its
    objection."""

    def __init__(
        self, index: SemanticIndex, guard: Guard, policy: SemanticPolicy, verifier: Verifier | None = None
    ) -> None:
        self._index = index
        self._guard = guard
        self._policy = policy
        self._verifier = verifier
        self.counts: Counter[str] = Counter()
        self.off: set[Way] = set()
        """The ways by which nothing is served any more."""
        self._quiet_until = 0.0

    def wants(self, text: str) -> bool:
        """Whether a text is one to be embedded and looked up: near texts are served, and the text is short enough."""
        if "semantic" in self.off:
            self.counts["off"] += 1
        elif len(text.encode()) > self._policy.max_text_bytes:
            self.counts["too_long"] += 1
        else:
            return True
        return False

    async def find(self, partition: Partition, text: str, embed: Callable[[str], Awaitable[Array]]) -> Found:
        """Look for the same words, then for a near text. `embed` gets what `prompt.to_embed` makes of the text."""
        hit = await self.same_words(partition, text)
        if hit is not None or not self.wants(text):
            return Found(hit, None)
        try:
            vector = await embed(to_embed(text))
        except DeadlineExceeded as error:
            self._missed("timeout", error)
            return Found(None, None)
        except ForebayError as error:
            self._missed("embed_error", error)
            return Found(None, None)
        return Found(await self.lookup(partition, text, vector), vector)

    async def same_words(self, partition: Partition, text: str) -> Hit | None:
        """A text that is the same but for case, spaces and what ends it."""
        if "normalised" in self.off:
            return None
        try:
            found = await self._index.same(partition.key(), normalised(text))
        except DependencyError as error:
            self._missed("index_error", error)
            return None
        if found is None or self._objection(text, found.text) is not None:
            return None
        self.counts["normalised"] += 1
        return Hit(found.entry_id, found.text, 1.0, "normalised")

    async def lookup(self, partition: Partition, text: str, vector: Array) -> Hit | None:
        """The nearest text that guard and verifier let pass."""
        if not self.wants(text):
            return None
        unit = unit_vector(vector)
        if unit is None:
            self._missed("vector")
            return None
        try:
            near = await self._index.near(partition.key(), unit, self._policy.threshold, self._policy.candidates)
        except DependencyError as error:
            self._missed("index_error", error)
            return None
        if not near:
            self._missed("none_near")
            return None
        reasons = []
        for match in near:
            reason = self._turned_off(text, match) or self._objection(text, match.text)
            reason = reason or await self._refusal(text, match)
            if reason is None:
                self.counts["semantic"] += 1
                return Hit(match.entry_id, match.text, match.score, "semantic")
            reasons.append(reason)
        self._missed(reasons[0])
        return None

    async def store(
        self, partition: Partition, entry_id: str, text: str, vector: Array, origin: Origin = UNKNOWN
    ) -> None:
        """Keep a text whose answer is kept under `entry_id`. What cannot be kept is left out."""
        unit = unit_vector(vector)
        if unit is None or not self.wants(text):
            return
        try:
            await self._index.add(partition.key(), Kept(entry_id, text, normalised(text), unit, origin))
        except DependencyError as error:
            self._missed("index_error", error)

    def turn_off(self, way: Way) -> None:
        """Nothing more is served that was found this way: what shadow mode does when such hits are wrong too often.
        Without near texts nothing is embedded, so that no text is stored either."""
        self.off.add(way)

    async def forget(self, partition: Partition, entry_id: str) -> None:
        """The answer is no longer kept, or was a wrong one."""
        try:
            await self._index.remove(partition.key(), entry_id)
        except DependencyError as error:
            self._missed("index_error", error)

    def _turned_off(self, text: str, match: Match) -> str | None:
        """The same words have the nearest vectors too: what was turned off must not come in by that door."""
        same = "normalised" in self.off and normalised(text) == normalised(match.text)
        return "off" if same else None

    def _objection(self, text: str, kept: str) -> str | None:
        objection = self._guard.compare(text, kept)
        return None if objection is None else f"guard_{objection}"

    async def _refusal(self, text: str, match: Match) -> str | None:
        if self._verifier is None:
            return None
        try:
            async with asyncio.timeout(self._policy.verifier_timeout_s):
                return None if await self._verifier(text, match.text) else "verifier"
        except Exception:
            # Code from outside: whatever it raises, its answer is no.
            log.warning("the verifier of the semantic cache failed: a miss", exc_info=True)
            return "verifier_error"

    def _missed(self, reason: str, error: ForebayError | None = None) -> None:
        if error is not None and (now := time.monotonic()) >= self._quiet_until:
            self._quiet_until = now + _TELL_EVERY_S
            log.warning("misses of the semantic cache, %s: %s", reason, error.message)
        self.counts[reason] += 1


def unit_vector(vector: Array) -> Array | None:
    """A vector at length 1, FP32; None for one that has no direction."""
    flat = np.asarray(vector, np.float64).reshape(-1)
    length = float(np.linalg.norm(flat))
    return (flat / length).astype(np.float32) if np.isfinite(length) and length > 0 else None
