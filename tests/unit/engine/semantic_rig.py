"""A semantic cache in front of a model that shouts, with an embedder to which all texts are alike, unless told
otherwise. Both are answered by hand where `held` says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from tests.unit.api.conftest import FunctionEngine

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.semantic.guard import GUARD_VERSION, Guard
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.shadow import Shadow
from forebay.cache.semantic.tier import SemanticTier
from forebay.core.caching import USUAL_ASK, CacheAsk, CacheRules, SemanticRules
from forebay.core.request import Request, output_array
from forebay.core.tensors import Array, pack_bytes
from forebay.engine.cached import CachedEngine
from forebay.engine.semantic import Opened, SemanticEngine
from forebay.engine.text_vectors import TextVectors
from forebay.models.signature import Signature, TensorSpec

TEXT = (TensorSpec("text", "BYTES", (1,)),)
ANSWERS = Signature(TEXT, (TensorSpec("answer", "BYTES", (1,)), TensorSpec("length", "INT64", (1,))))
VECTORS = Signature(TEXT, (TensorSpec("embedding", "FP32", (3,)),))

MEND, REPAIR = "Please mend a tyre", "Please repair a tyre"
"""One asks what the other asks. The guard refuses what differs in a number."""


def shout(texts: Array) -> list[Array]:
    return [np.vectorize(bytes.upper, otypes=[object])(texts), np.vectorize(len, otypes=[np.int64])(texts)]


def alike(texts: Array) -> list[Array]:
    return [np.tile(np.array([1, 0, 0], np.float32), (len(texts), 1))]


def shouting(name: str = "qa", caching: CacheRules | None = None) -> FunctionEngine:
    """A model of texts."""
    engine = FunctionEngine(name, ANSWERS, shout)
    engine.digest, engine.caching = f"{name} 1", caching
    return engine


def embedding(name: str = "vectors", function: Callable[..., list[Array]] = alike) -> FunctionEngine:
    """An embedder."""
    engine = FunctionEngine(name, VECTORS, function)
    engine.digest = f"{name} 1"
    return engine


def semantic_rules(**more: Any) -> SemanticRules:
    return SemanticRules(**{"embedder": "vectors", "threshold": 0.98, "guard": GUARD_VERSION, **more})


@cache
def guard() -> Guard:
    """Made once: it takes part of a second."""
    return Guard(load_lexicon())


class Rig:
    """`qa` behind `near` behind `engine`; `vectors` beside them."""

    def __init__(
        self, shadow: Shadow | None = None, coalesces: bool = True, texts: LocalIndex | None = None, **rules: Any
    ) -> None:
        """`rules`: of the cache, or of its semantic part."""
        self.ahead_s = 0.0
        self.qa, self.vectors = shouting(), embedding()
        mine = {name: value for name, value in rules.items() if name in SemanticRules.__struct_fields__}
        semantic = semantic_rules(**mine)
        other = {name: value for name, value in rules.items() if name not in mine}
        kept = self.rules = CacheRules(**{"ttl_s": 60.0, **other}, coalesces=coalesces, semantic=semantic)
        self.cache = AnswerCache(1 << 20, 1 << 16, self.clock)
        self.near = SemanticEngine(self.qa, kept, semantic, self.cache)
        self.engine = CachedEngine(self.near, kept, self.cache)
        self.near.stand_behind(self.engine)
        self.index = texts or LocalIndex()
        self.tier = SemanticTier(self.index, guard(), SemanticPolicy(threshold=semantic.threshold))
        self.shadow = shadow or Shadow(self.tier.turn_off, sample_rate=0.0, max_false_hit_rate=0.1)
        vectors = TextVectors(lambda: self.vectors, self.vectors.digest, self.clock)
        self.near.open(Opened(self.tier, self.shadow, vectors), "on")
        self.ended: list[Request] = []

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    def submit(self, *texts: str | bytes, ask: CacheAsk = USUAL_ASK, timeout_s: float = 30.0, **more: Any) -> Request:
        """A request, a text a row."""
        rows = [text if isinstance(text, bytes) else text.encode() for text in texts]
        payload, now = pack_bytes(rows), self.clock()
        made = Request(
            [payload],
            ((1,),),
            len(rows),
            nbytes=len(payload),
            deadline=now + timeout_s,
            arrived=now,
            on_done=self._end,
            cache=ask,
            **more,
        )
        self.engine.submit(made)
        return made

    def _end(self, request: Request) -> None:
        assert not any(one is request for one in self.ended), "answered twice"
        self.ended.append(request)

    async def until(self, *requests: Request) -> None:
        """Wait until these are answered, and what there is to learn from them is learnt."""
        await soon(lambda: all(any(one is request for one in self.ended) for request in requests))
        for _ in range(5):
            await asyncio.sleep(0)

    async def ask(self, *texts: str | bytes, **more: Any) -> Request:
        """Submit, and wait for the answer."""
        request = self.submit(*texts, **more)
        await self.until(request)
        return request

    @property
    def runs(self) -> int:
        """Of the model."""
        return len(self.qa.seen)


async def soon(holds: Callable[[], object]) -> None:
    """Wait until this is true; generous, since it is not a measurement."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "not within 30 s"
        await asyncio.sleep(0.001)


def told(request: Request) -> tuple[str, bytes]:
    """What the cache did, and the answer."""
    assert request.error is None, request.error
    answer: bytes = output_array(request, 0, True)[0, 0]
    return request.cached.outcome, answer
