"""Faster forms answer while there is too much to do; a caller may say which; everybody is answered once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.cascade_rig import REFUSING, request_of, said
from tests.unit.engine.semantic_rig import soon
from tests.unit.engine.variants_rig import BEST, FAST, FASTEST, Rig

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.single_flight import Flight
from forebay.core.caching import USUAL_ASK, CacheRules
from forebay.core.errors import AdmissionError, RequestError
from forebay.core.request import Background, Listener, Request
from forebay.engine.cached import CachedEngine


async def ask(rig: Rig, **more: Any) -> tuple[int, str]:
    """Who answered, by the row and by what is told."""
    request = await asked(rig, **more)
    return said(request)[0], request.answered_by


async def asked(rig: Rig, **more: Any) -> Request:
    request = request_of((7.9,), **more)
    rig.front.submit(request)
    await soon(lambda: request.wire)
    return request


async def test_without_a_rush_the_model_itself_answers() -> None:
    assert await ask(Rig()) == (BEST, "large")


async def test_in_a_rush_faster_ones_answer_and_later_the_best_again() -> None:
    rig = Rig()
    rig.rush()
    assert [(await ask(rig))[0] for _ in range(4)] == [FAST, FASTEST, FASTEST, FASTEST]
    rig.rush(on=False)
    answers = []
    for _ in range(150):
        rig.clock.now += 0.1
        answers.append((await ask(rig))[0])
    assert sorted(answers, reverse=True) == answers, "step by step"
    assert set(answers) == {FASTEST, FAST, BEST}
    assert rig.front.reading().steps == {"down": 2, "up": 2}
    assert rig.front.reading().requests["large"] == answers.count(BEST)


async def test_one_that_has_run_nothing_yet_is_tried() -> None:
    rig = Rig()
    rig.best.row_compute_s = 0.0
    rig.rush()
    await ask(rig)
    rig.rush(on=False)
    for _ in range(60):
        rig.clock.now += 0.1
        who, _ = await ask(rig)
    assert who == BEST


async def test_what_one_refuses_the_next_answers_at_once() -> None:
    rig = Rig()
    rig.best.refuse_with = rig.fast.refuse_with = AdmissionError("full", code="queue_full")
    assert await ask(rig) == (FASTEST, "fastest")


async def test_where_the_fastest_are_gone_the_best_answers() -> None:
    rig = Rig()
    rig.rush()
    await ask(rig)
    await ask(rig)
    rig.fast.refuse_with = rig.fastest.refuse_with = AdmissionError("gone", code="model_not_ready")
    assert await ask(rig) == (BEST, "large")
    rig.best.refuse_with = AdmissionError("full", code="queue_full")
    with pytest.raises(AdmissionError, match="full"):
        await ask(rig)


@pytest.mark.parametrize(("name", "by"), [("large", BEST), ("fast", FAST), ("fastest", FASTEST)])
async def test_a_request_that_names_one_is_answered_by_that_one_alone(name: str, by: int) -> None:
    rig = Rig()
    for rush in (False, True, True):
        rig.rush(rush)
        assert await ask(rig, parameters={"variant": name}) == (by, name)
        await ask(rig)
    refusing = {"large": rig.best, "fast": rig.fast, "fastest": rig.fastest}[name]
    refusing.refuse_with = AdmissionError("full", code="queue_full")
    with pytest.raises(AdmissionError):
        await ask(rig, parameters={"variant": name})


@pytest.mark.parametrize("name", ["slow", 7, ["fast"], ""])
async def test_one_that_is_not_there_is_an_error(name: object) -> None:
    with pytest.raises(RequestError, match="of 'large' there are large, fast, fastest"):
        await ask(Rig(), parameters={"variant": name})


async def test_what_the_model_refuses_no_variant_answers() -> None:
    rig = Rig(signature=REFUSING)
    rig.rush()
    await ask(rig)
    for parameters in ({}, {"variant": "fastest"}):
        with pytest.raises(RequestError, match="NaN, which this model does not take"):
            rig.front.submit(request_of((math.nan,), parameters=parameters))
    assert [rig.front.reading().requests[name] for name in ("fast", "fastest")] == [1, 0]
    assert (await ask(rig))[0] != BEST


async def test_jobs_and_streams_are_the_models_own() -> None:
    rig = Rig()
    rig.rush()
    await ask(rig)
    assert await ask(rig, background=Background(5.0)) == (BEST, "large")
    assert await ask(rig, listener=Listener(lambda row, outputs: None, lambda row, fraction: None)) == (BEST, "large")


async def test_who_leaves_is_taken_from_the_one_that_has_it() -> None:
    rig = Rig()
    rig.rush()
    rig.fast.held = []
    request = request_of((7.9,))
    rig.front.submit(request)
    assert rig.front.waits(request)
    rig.front.cancel(request)
    assert rig.fast.canceled[0] is request
    assert rig.best.canceled == []


async def test_the_cache_keeps_variants_apart() -> None:
    rig = Rig()
    digests = [rig.front.digest]
    rig.rush()
    for _ in range(2):
        before = rig.front.digest
        request = await asked(rig)
        assert request.ran_on == rig.front.digest != before, "its key is about the one before"
        digests.append(rig.front.digest)
    assert len(set(digests)) == 3
    assert digests[0] == rig.best.digest
    assert (await asked(rig)).ran_on == rig.front.digest == digests[-1]


async def test_what_a_variant_answered_is_not_kept_as_the_models_own_where_the_level_goes_up_and_down() -> None:
    rig = Rig()
    cached = CachedEngine(rig.front, CacheRules(ttl_s=60.0), AnswerCache(1 << 20, 1 << 16, rig.clock))
    request = request_of((7.9,), cache=USUAL_ASK)
    flight = Flight(b"its key", request, request.on_done, cached.memory.generation, rig.front.digest)
    rig.rush()
    await ask(rig)  # somebody else's, by which the level goes down before this one is run
    rig.rush(on=False)
    rig.fast.held = []
    cached._run(flight)
    rig.clock.now += 100.0
    await ask(rig)
    assert rig.front.digest == flight.digest
    rig.fast.finish(request)
    assert (said(request)[0], len(cached.memory)) == (FAST, 0)


async def test_answers_of_a_variant_that_was_named_are_not_kept() -> None:
    rig = Rig()
    cached = CachedEngine(rig.front, CacheRules(ttl_s=60.0), AnswerCache(1 << 20, 1 << 16, rig.clock))

    async def outcome(name: str) -> str:
        request = request_of((7.9,), parameters={"variant": name}, cache=USUAL_ASK)
        cached.submit(request)
        await soon(lambda: request.wire)
        return str(request.cached.outcome)

    assert [await outcome("fast"), await outcome("fast")] == ["miss", "miss"]
    assert [await outcome("large"), await outcome("large")] == ["miss", "exact"]
    rig.open(fastest=rig.fastest)
    with pytest.raises(RequestError, match="there are large, fastest"):
        await outcome("fast")


async def test_one_that_falls_answers_no_more() -> None:
    rig = Rig(shadow_rate=1.0)
    for _ in range(40):
        await ask(rig)
    await soon(lambda: rig.watches["fast"].compared == rig.watches["fastest"].compared == 20)
    assert (rig.watches["fast"].disagreed, rig.fast.seen[0].background is not None) == (0, True)
    before = rig.fast.function
    rig.fast.function = lambda x: [before(x)[0], np.ascontiguousarray(before(x)[1][:, ::-1])]
    for _ in range(40):
        await ask(rig)
    await soon(lambda: rig.watches["fast"].fallen)
    assert not rig.watches["fastest"].fallen
    rig.open(fastest=rig.fastest)
    rig.rush()
    assert (await ask(rig))[0] == FASTEST
    with pytest.raises(RequestError, match="there are large, fastest"):
        await ask(rig, parameters={"variant": "fast"})


async def test_numbers_are_compared_within_what_was_measured() -> None:
    rig = Rig(shadow_rate=1.0, output="by", judge="numbers", most_apart=FAST - BEST)
    for _ in range(40):
        await ask(rig)
    fast, fastest = rig.watches["fast"], rig.watches["fastest"]
    await soon(lambda: fast.compared == 20 and fastest.compared > 0)
    assert (fast.disagreed, fastest.disagreed) == (0, fastest.compared)


async def test_comparisons_cost_nothing_in_a_rush_and_do_not_pile_up() -> None:
    rig = Rig(shadow_rate=1.0)
    rig.fast.held, rig.fastest.held = [], []
    for _ in range(200):
        await ask(rig)
    assert len(rig.fast.held) + len(rig.fastest.held) == 64
    busy = Rig(shadow_rate=1.0)
    busy.rush()
    for _ in range(20):
        await ask(busy)
    assert all(one.background is None for engine in (busy.best, busy.fast, busy.fastest) for one in engine.seen)
