"""Semantic caches of one server: opened once their embedders are there and checked, shut while they are not.

Models and embedders come and go while the server runs: whenever one does, all is looked at anew. At the start what is
wrong with a model that was named by itself is an error; later it is told, and the model goes on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from forebay.api.caches import Caches
from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.cache.port import Match
from forebay.cache.semantic.embedder import check_embedder
from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.index import SemanticIndex
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.policy import SemanticPolicy, check_embedder_of
from forebay.cache.semantic.shadow import Shadow, reading
from forebay.cache.semantic.tier import SemanticTier
from forebay.cache.semantic.usearch_vectors import UsearchVectors
from forebay.core.caching import SemanticRules
from forebay.core.errors import ForebayError, SetupError
from forebay.core.settings_values import did_you_mean
from forebay.core.tensors import Array
from forebay.engine.client import EngineClient
from forebay.engine.forwarded import ForwardedEngine
from forebay.engine.semantic import Opened, SemanticEngine
from forebay.engine.text_vectors import TextVectors, check_makes_vectors
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.semantic_metrics import SemanticMetrics

log = logging.getLogger("forebay.api")

LOOK_AGAIN_S = 5.0
"""How often it is looked whether what stands in the way is gone, and files of workers are those that they were."""
CHECK_TIMEOUT_S = 30.0
"""Of each embedding while an embedder is checked."""


class _Kept(NamedTuple):
    """What a version of a model looks up by, as long as all of `like` stays: its texts outlive the engine."""

    like: tuple[str, str, SemanticRules]
    opened: Opened


class SemanticTiers:
    """`start` it once, in a running event loop, then `drain` and `close`."""

    def __init__(self, inference: Inference, caches: Caches, metrics: Metrics) -> None:
        """`caches`: where the answers are."""
        self._inference = inference
        self._caches = caches
        self._clock = caches.answers.clock
        self._metrics = metrics.semantic = SemanticMetrics()
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._guard: Guard | None = None
        self._indexes: dict[str, SemanticIndex] = {}
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._checked: set[tuple[str, str, str, bool, int]] = set()
        """Embedders that will do: name, version, digest, whether it batches, longest text."""
        inference.on_route.append(self._noticed)
        caches.answers.on_forget.append(self._forget)

    def _noticed(self, path: bytes, endpoint: Endpoint | None) -> None:
        self._news.set()

    def _forget(self, which: Match) -> None:
        """Texts of answers that are forgotten; those in the store are left to whoever forgets the answers there."""
        for index in self._indexes.values():
            if isinstance(index, LocalIndex):
                index.clear_now(which)

    async def start(self, must: Callable[[str], bool] = lambda model: False) -> None:
        """Open what can be opened, and see to the rest as models come and go.

        Raises `SetupError` where that fails for a model that `must`.
        """
        for near in self._all():
            error = await self._look(near)
            if isinstance(error, SetupError) and must(near.name) and not self._parked(near.semantic.embedder):
                raise error
        self._running = asyncio.create_task(self._run(), name="forebay semantic caches")

    def drain(self) -> None:
        """Nothing more is sought; what was, goes to the models now."""
        if self._running is not None:
            self._running.cancel()
        for near in self._all():
            near.hasten()

    async def close(self) -> None:
        """Let go of all that is kept."""
        self.drain()
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        for index in self._indexes.values():
            await index.close()

    def _all(self) -> list[SemanticEngine]:
        return [endpoint.near for endpoint in self._inference.endpoints if endpoint.near is not None]

    async def _run(self) -> None:
        while True:
            for near in self._all():
                await self._look(near)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S if self._all() else None):
                    await self._news.wait()
            self._news.clear()

    async def _look(self, near: SemanticEngine) -> Exception | None:
        """Open or shut one, as things are now; returns what stands in the way."""
        before = near.told
        try:
            opened = await self._opened(near)
        except Exception as error:
            words = error.message if isinstance(error, ForebayError) else f"{type(error).__name__}: {error}"
            near.shut(words)
            if near.told != before:
                unforeseen = None if isinstance(error, ForebayError) else error
                log.warning(
                    "model %s goes on without its semantic cache: %s", near.name, words,
                    exc_info=unforeseen, extra=fields(model=near.name, version=near.version),
                )  # fmt: skip
            return error
        near.open(opened, _told(near.semantic))
        if near.told != before:
            log.info(
                "model %s: semantic cache %s", near.name, near.told, extra=fields(model=near.name, version=near.version)
            )
        return None

    async def _opened(self, near: SemanticEngine) -> Opened:
        """Raises `SetupError`, or what the embedder raises."""
        rules = near.semantic
        embedder = self._embedder(near.name, rules)
        digest = embedder.digest
        check_embedder_of(near.name, rules, digest)
        vectors = TextVectors(partial(self._embedder, near.name, rules), digest, self._clock)
        await self._check(near.name, rules, embedder, vectors)
        if self._guard is None:
            self._guard = Guard(await asyncio.to_thread(load_lexicon))
        place, like = (near.name, near.version), (_digest_of(near), digest, rules)
        kept = self._kept.get(place)
        if kept is None or kept.like != like:
            policy = SemanticPolicy(threshold=rules.threshold, max_text_bytes=rules.max_text_bytes)
            tier = SemanticTier(await self._index(near.name, rules), self._guard, policy)
            shadow = Shadow(
                tier.turn_off, sample_rate=rules.shadow_rate, max_false_hit_rate=rules.max_false_hit_rate
            )  # fmt: skip
            kept = self._kept[place] = _Kept(like, Opened(tier, shadow, vectors))
            self._metrics.models[place] = partial(reading, tier.counts, shadow)
        return kept.opened

    async def _check(self, model: str, rules: SemanticRules, embedder: EngineClient, vectors: TextVectors) -> None:
        batches = embedder.max_batch_rows > 0
        known = (embedder.name, embedder.version, vectors.digest, batches, rules.max_text_bytes)
        if known in self._checked:
            return
        check_makes_vectors(f"{model}: semantic_embedder = {rules.embedder!r}", embedder.signature)

        async def embed(texts: Sequence[str]) -> Array:
            return await vectors.of(texts, CHECK_TIMEOUT_S)

        try:
            found = await check_embedder(embed, rules.max_text_bytes)
        except SetupError as error:
            raise SetupError(f"{model}: semantic_embedder = {rules.embedder!r}: {error.message}") from None
        if not found.invariant:
            raise SetupError(
                f"{model}: semantic_embedder = {rules.embedder!r} gives a text another vector in a batch than alone "
                f"(they are {found.distance:.2g} apart); set {embedder.name}.batching=off"
            )
        self._checked.add(known)

    async def _index(self, model: str, rules: SemanticRules) -> SemanticIndex:
        """One of each kind for all models: what it keeps is bounded over all of them."""
        index = self._indexes.get(rules.index)
        if index is None:
            if rules.index == "store":
                index = await self._store_index(model)
            elif rules.index == "usearch":
                UsearchVectors(1)  # say that the library is missing now, not when a partition has grown
                index = LocalIndex(max_entries=1_000_000, max_bytes=4 << 30, large=UsearchVectors)
            else:
                index = LocalIndex()
            self._indexes[rules.index] = index
        return index

    async def _store_index(self, model: str) -> SemanticIndex:
        index = self._caches.texts
        if index is None:
            raise SetupError(
                f'{model}: semantic_index = "store" needs a store of cached answers: --cache-store redis://HOST:PORT '
                "(Redis from 8.0)"
            )
        await index.check()
        return index

    def _embedder(self, model: str, rules: SemanticRules) -> EngineClient:
        """The engine that makes vectors for a model now; they may be cached, exactly. Raises `SetupError`."""
        wanted = rules.embedder
        engines = self._inference.engines
        name, _, version = (wanted, "", "") if wanted in engines else wanted.partition("/")
        try:
            endpoint = self._inference.find(name, version or None)
        except ForebayError:
            served = sorted(engines.keys() - {model})
            hint = did_you_mean(name, served) or f"; served beside it: {', '.join(served) or 'none'}"
            raise SetupError(f"{model}: semantic_embedder = {wanted!r} is not served{hint}") from None
        return endpoint.engine if endpoint.near is None else endpoint.published

    def _parked(self, embedder: str) -> bool:
        """Whether it is only unloaded to make room for others."""
        on_demand = self._inference.on_demand
        return on_demand is not None and on_demand.covers(embedder.partition("/")[0])


def _digest_of(front: EngineClient) -> str:
    """Of the model's files, whoever answers in its place now."""
    while isinstance(front, ForwardedEngine):
        front = front.inner
    return front.digest


def _told(rules: SemanticRules) -> str:
    measured = "calibrated" if rules.calibrated_for else "not calibrated"
    return f"on: cosine from {rules.threshold:.4f} ({measured}), vectors by {rules.embedder}"
