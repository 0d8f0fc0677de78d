"""A cached engine around one that the test answers by hand, under a clock that the test moves."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.unit.api.conftest import FunctionEngine

from forebay.cache.answer_cache import AnswerCache
from forebay.core.caching import USUAL_ASK, CacheAsk, CacheRules
from forebay.core.request import Request, output_array
from forebay.engine.cached import CachedEngine
from forebay.models.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))


SHAPES = ((1,),)
"""One object, as requests of one shape have it."""


class Rig:
    """`engine` doubles its input; a request runs when `run` is called, and notes its number there. `primed`: it has
    seen a request like all others, which are submitted in one step then."""

    primed = False

    def __init__(self, coalesces: bool = True, **rules: Any) -> None:
        self.now = 100.0
        self.inner = FunctionEngine("m", SIGNATURE, lambda x: [(x * 2).astype(np.float32)])
        self.inner.digest = "d"
        self.inner.held = []
        self.cache = AnswerCache(1 << 20, 1 << 16, lambda: self.now)
        self.engine = CachedEngine(
            self.inner, CacheRules(**{"ttl_s": 60.0, **rules, "coalesces": coalesces}), self.cache
        )
        self.ended: list[Request] = []
        if self.primed:
            self.engine._keys.of(Request([[0.0]], SHAPES, 1, 4, 0.0, 0.0, self._end), "")

    def ask(
        self, value: float = 1.0, ask: CacheAsk | None = USUAL_ASK, timeout_s: float = 30.0, **more: Any
    ) -> Request:
        """Submit a request of one row."""
        made = Request(
            [[value]],
            SHAPES,
            1,
            nbytes=4,
            deadline=self.now + timeout_s,
            arrived=self.now,
            on_done=self._end,
            cache=ask,
            **more,
        )
        self.engine.submit(made)
        return made

    def _end(self, request: Request) -> None:
        assert not any(one is request for one in self.ended), "answered twice"
        self.ended.append(request)

    @property
    def runs(self) -> int:
        """How many requests the engine has been given."""
        return len(self.inner.seen)

    def run(self, took_s: float = 0.0) -> None:
        """The engine answers all that it holds, in order."""
        self.now += took_s
        held, self.inner.held = self.inner.held or [], []
        for request in held:
            if not any(one is request for one in self.inner.canceled):
                self.inner.finish(request)

    def told(self, request: Request) -> str:
        """What the cache did."""
        return str(request.cached.outcome)


def y(request: Request) -> float:
    """The answer."""
    assert request.error is None
    return float(output_array(request, 0, True)[0, 0])
