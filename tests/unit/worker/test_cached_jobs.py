"""Jobs of a model whose answers are kept: they wait beside others, or while others are asked, as long as it takes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.unit.worker.rig import output, rig

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.shared_tier import SharedTier
from forebay.core.caching import USUAL_ASK, CacheRules
from forebay.engine.shared_cached import cached_engine

REQUEST_S = 0.05
"""As long a request of the model may take; no job."""


@pytest.mark.parametrize("shares", [False, True], ids=["in memory", "with a store"])
async def test_jobs_have_their_own_time_and_not_that_of_a_request(tmp_path: Path, shares: bool) -> None:
    answers = AnswerCache(1 << 20, 1 << 16)
    if shares:
        store = MemorySharedCache(SharedMemory(time.monotonic, 1 << 20))
        answers.tier = SharedTier(store, 5.0, time.monotonic, answers.metrics)
        answers.tier.start(answers.forget)
    async with rig(tmp_path, start=False) as r:
        r.codec.serve({"tiny": cached_engine(r.engine, CacheRules(60.0, coalesces=True), answers)})
        r.codec.timeout_s, r.codec.ask = REQUEST_S, USUAL_ASK
        r.gate.close()
        calls = len(r.gate.calls)
        ids = await r.submit(3.0, 3.0)
        r.worker.start()
        await r.begun(calls + 1)
        await asyncio.sleep(2 * REQUEST_S)
        r.gate.open()
        assert [output(record) for record in await r.ended(*ids)] == [[6.0], [6.0]]
        assert len(r.gate.calls) == calls + 1


async def test_a_job_fails_at_its_own_time_beside_others(tmp_path: Path) -> None:
    async with rig(tmp_path, start=False) as r:
        answers = AnswerCache(1 << 20, 1 << 16)
        r.codec.serve({"tiny": cached_engine(r.engine, CacheRules(60.0, coalesces=True), answers)})
        r.codec.ask = USUAL_ASK
        ids = await r.submit(-4.0, -4.0, timeout_s=0.2)
        r.worker.start()
        failed = await r.ended(*ids)
        assert [record.error and (record.error.code, record.error.stage) for record in failed] == [
            ("deadline_exceeded", "executing"),
            ("deadline_exceeded", "executing"),
        ]
