"""What a text gets from the answers to others, and what happens when that cannot be found out."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.semantic_rig import MEND, REPAIR, Rig, soon, told

from forebay.cache.port import Match
from forebay.cache.semantic.shadow import Shadow
from forebay.core.caching import CacheAsk
from forebay.core.errors import AdmissionError, CacheMiss, ExecutionError
from forebay.core.request import Background, Request
from forebay.core.tensors import Array

MISS, NEAR = ("miss", MEND.upper().encode()), ("semantic", MEND.upper().encode())
MISS_REPAIR = ("miss", REPAIR.upper().encode())


async def test_a_near_text_gets_the_answer_that_is_kept() -> None:
    rig = Rig()
    first = await rig.ask(MEND)
    second = await rig.ask(REPAIR)
    exact = await rig.ask(MEND)
    assert (told(first), told(second), rig.runs) == (MISS, NEAR, 1)
    note = second.cached
    assert (note.score, note.entry) == (pytest.approx(1.0), exact.cached.entry)
    assert 0.0 <= note.age_s < 30.0
    counts = rig.engine.counts
    assert (counts.misses, counts.semantic, counts.hits) == (1, 1, 1)
    assert counts.saved_s > 0.0
    assert rig.engine.statistics().cache_hit.count == 2


async def test_a_near_hit_is_not_kept_under_the_new_text() -> None:
    """Else a wrong hit would be an exact one for ever, and would be found by texts near to it in turn."""
    rig = Rig()
    await rig.ask(MEND)
    for _ in range(2):
        assert told(await rig.ask(REPAIR)) == NEAR
    assert len(rig.cache.memory) == 1


async def test_the_same_words_need_no_vector() -> None:
    rig = Rig()
    await rig.ask(MEND)
    made = len(rig.vectors.seen)
    assert told(await rig.ask(f"  {MEND.lower()}?")) == NEAR
    assert len(rig.vectors.seen) == made


@pytest.mark.parametrize("other", ["Please mend 2 tyres", "Please do not mend a tyre", "Please mend a window"])
async def test_what_the_guard_refuses_is_run(other: str) -> None:
    rig = Rig()
    await rig.ask(MEND)
    assert told(await rig.ask(other)) == ("miss", other.upper().encode())
    assert rig.runs == 2


async def test_equal_requests_in_flight_are_looked_up_once() -> None:
    rig = Rig()
    await rig.ask(MEND)
    made = len(rig.vectors.seen)
    several = [rig.submit(REPAIR) for _ in range(5)]
    await rig.until(*several)
    assert [told(one) for one in several] == [NEAR] * 5
    assert (len(rig.vectors.seen) - made, rig.runs) == (1, 1)
    several = [rig.submit("Please mend 2 tyres") for _ in range(5)]
    await rig.until(*several)
    assert [told(one)[0] for one in several] == ["miss", *["coalesced"] * 4]
    assert rig.runs == 2


ALICE, BOB = CacheAsk("alice"), CacheAsk("bob")


async def test_tenants_are_apart_unless_they_share() -> None:
    rig = Rig()
    await rig.ask(MEND, ask=ALICE)
    assert told(await rig.ask(REPAIR, ask=BOB)) == MISS_REPAIR
    assert told(await rig.ask(REPAIR, ask=ALICE)) == NEAR
    shared = Rig(shared=True)
    await shared.ask(MEND, ask=ALICE)
    assert told(await shared.ask(REPAIR, ask=BOB)) == NEAR


@pytest.mark.parametrize(
    "more",
    [{"parameters": {"system": "Be brief."}}, {"parameters": {"locale": "de"}}, {"requested": (0,)}],
    ids=["system prompt", "locale", "outputs"],
)
async def test_other_parameters_and_outputs_are_apart(more: dict[str, Any]) -> None:
    rig = Rig()
    await rig.ask(MEND)
    assert told(await rig.ask(REPAIR, **more)) == MISS_REPAIR
    assert told(await rig.ask(MEND + "!", **more)) == ("semantic", REPAIR.upper().encode())


async def test_another_model_or_embedder_has_nothing_yet() -> None:
    rig = Rig()
    await rig.ask(MEND)
    rig.qa.digest = "qa 2"
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR
    rig.vectors.digest = "vectors 2"
    assert told(await rig.ask("Kindly repair a tyre"))[0] == "miss"
    assert rig.tier.counts["embed_error"] == 1


async def test_a_text_whose_answer_is_gone_is_forgotten() -> None:
    rig = Rig()
    await rig.ask(MEND)
    rig.cache.memory.drop(lambda entry: True)
    assert told(await rig.ask(MEND + ".")) == ("miss", (MEND + ".").upper().encode())
    assert told(await rig.ask(MEND.lower())) == ("semantic", (MEND + ".").upper().encode())
    assert rig.runs == 2


async def test_a_text_whose_answer_is_forgotten_while_it_is_learnt_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    ended: list[Request] = []

    def end(request: Request) -> None:
        rig.cache.forget(Match())
        ended.append(request)

    monkeypatch.setattr(rig, "_end", end)
    rig.submit(MEND)
    await soon(lambda: ended)
    await asyncio.sleep(0.01)
    assert rig.index.nbytes == 0


async def test_an_old_answer_is_not_served_to_near_texts_while_it_is_stale() -> None:
    rig = Rig(stale_s=100.0)
    await rig.ask(MEND)
    rig.ahead_s += 61.0
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR


async def test_what_callers_want() -> None:
    rig = Rig()
    await rig.ask(MEND)
    rig.ahead_s += 10.0
    assert told(await rig.ask(REPAIR, ask=CacheAsk(max_age_s=60.0))) == NEAR
    with pytest.raises(CacheMiss):
        rig.submit(REPAIR, ask=CacheAsk(use="only"))
    assert told(await rig.ask(REPAIR, ask=CacheAsk(max_age_s=5.0))) == MISS_REPAIR
    assert told(await rig.ask("Please mend a tire", ask=CacheAsk(use="refresh")))[0] == "miss"
    assert rig.runs == 3


@pytest.mark.parametrize("texts", [(MEND, REPAIR), (b"\xff\xfe",)], ids=["two rows", "no text"])
async def test_what_is_no_single_text_is_passed_on(texts: tuple[str | bytes, ...]) -> None:
    rig = Rig()
    await rig.ask(*texts)
    assert (rig.runs, len(rig.vectors.seen)) == (1, 0)


# -- when the embedder fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["refuses", "fails", "raises"])
async def test_an_embedder_that_fails_is_a_miss(way: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    await rig.ask(MEND)
    if way == "fails":
        rig.vectors.fail_with = ExecutionError("the model's process died", code="instance_crashed")
    else:
        rig.vectors.refuse_with = AdmissionError("full", code="queue_full") if way == "refuses" else ValueError("odd")
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR
    for number in range(5):
        assert told(await rig.ask(f"Mend {number} tyres"))[0] == "miss"
    if way != "raises":
        assert sum("embed_error" in line for line in caplog.messages) == 1
    rig.vectors.fail_with = rig.vectors.refuse_with = None
    assert told(await rig.ask("Please repair a tire"))[0] == "semantic"


@pytest.mark.parametrize(("limit_s", "timeout_s"), [(0.05, 30.0), (30.0, 0.1)], ids=["by setting", "by deadline"])
async def test_an_embedder_that_hangs_is_a_miss(limit_s: float, timeout_s: float) -> None:
    rig = Rig(timeout_s=limit_s)
    rig.vectors.held = []
    assert told(await rig.ask(MEND, timeout_s=timeout_s)) == MISS
    assert rig.tier.counts["timeout"] == 1
    assert rig.vectors.canceled == rig.vectors.held


async def test_a_refusal_by_the_model_is_told_to_all_who_wait() -> None:
    rig = Rig()
    several = [rig.submit(MEND) for _ in range(3)]
    rig.qa.refuse_with = AdmissionError("full", code="queue_full", retry_after_s=3.0)
    await rig.until(*several)
    assert [one.error.code for one in several if one.error is not None] == ["queue_full"] * 3


async def test_an_error_of_the_model_leaves_no_text() -> None:
    rig = Rig()
    rig.qa.fail_with = ExecutionError("no", code="model_error")
    assert (await rig.ask(MEND)).error is rig.qa.fail_with
    rig.qa.fail_with = None
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR


async def test_a_model_that_is_not_ready_refuses_at_once() -> None:
    rig = Rig()
    rig.qa.state = "draining"
    rig.qa.refuse_with = AdmissionError("draining", code="draining")
    with pytest.raises(AdmissionError):
        rig.submit(MEND)


# -- while it is looked up --------------------------------------------------------------------------------------------


async def looked_up(rig: Rig, text: str, **more: Any) -> Request:
    """A request that waits for its vector."""
    rig.vectors.held = []
    request = rig.submit(text, **more)
    await soon(lambda: rig.vectors.held)
    assert rig.near.pending == 1
    return request


async def go_on(rig: Rig) -> None:
    held, rig.vectors.held = rig.vectors.held or [], None
    for request in held:
        if not any(one is request for one in rig.vectors.canceled):
            rig.vectors.finish(request)
    await asyncio.sleep(0)


async def test_a_caller_that_leaves_stops_it() -> None:
    rig = Rig()
    request = await looked_up(rig, MEND)
    rig.engine.cancel(request)
    await soon(lambda: rig.vectors.canceled)
    await go_on(rig)
    assert (rig.runs, rig.ended, rig.near.pending) == (0, [], 0)
    assert told(await rig.ask(MEND)) == MISS


async def test_the_rest_stay_when_the_first_leaves() -> None:
    rig = Rig()
    first = await looked_up(rig, MEND)
    second = rig.submit(MEND)
    rig.engine.cancel(first)
    await go_on(rig)
    await rig.until(second)
    assert (told(second)[1], len(rig.ended), rig.runs) == (MISS[1], 1, 1)


async def test_one_with_less_time_hastens_it() -> None:
    rig = Rig()
    first = await looked_up(rig, MEND, timeout_s=30.0)
    second = rig.submit(MEND, timeout_s=20.0)
    await soon(lambda: len(rig.vectors.held or ()) == 2)
    await go_on(rig)
    await rig.until(first, second)
    assert {told(first)[1], told(second)[1]} == {MISS[1]}
    assert rig.runs == 1
    assert rig.qa.seen[0].deadline == second.deadline


async def test_one_with_less_time_is_not_looked_up_again() -> None:
    rig = Rig()
    rig.qa.held = []
    first = rig.submit(MEND, timeout_s=30.0)
    await soon(lambda: rig.qa.held)
    second = rig.submit(MEND, timeout_s=20.0)
    assert [one.deadline for one in rig.qa.held] == [first.deadline, second.deadline]
    assert len(rig.vectors.seen) == 1
    rig.qa.finish(rig.qa.held[1])
    await rig.until(first, second)
    assert told(await rig.ask(REPAIR)) == NEAR


async def test_one_who_wants_nothing_old_does_not_wait_beside_a_look() -> None:
    rig = Rig()
    await rig.ask(MEND)
    first = await looked_up(rig, REPAIR)
    new = rig.submit(REPAIR, ask=CacheAsk(max_age_s=0.0))
    await soon(lambda: len(rig.vectors.held or ()) == 2)
    await go_on(rig)
    await rig.until(first, new)
    assert [told(first), told(new), rig.runs] == [NEAR, MISS_REPAIR, 2]


async def test_one_who_wants_nothing_old_waits_beside_a_run() -> None:
    rig = Rig()
    rig.qa.held = []
    first = rig.submit(MEND)
    await soon(lambda: rig.qa.held)
    new = rig.submit(MEND, ask=CacheAsk(max_age_s=0.0))
    rig.qa.finish(rig.qa.held[0])
    await rig.until(first, new)
    assert [told(first)[0], told(new)[0], rig.runs] == ["miss", "coalesced", 1]


async def test_what_is_refused_to_one_without_time_runs_for_those_who_have_it_and_is_learnt() -> None:
    rig = Rig()
    first = await looked_up(rig, MEND, timeout_s=20.0)
    second = rig.submit(MEND)
    submit = rig.qa.submit

    def forecast(request: Request) -> None:
        if request.deadline <= first.deadline:
            raise AdmissionError("too busy", code="deadline_unreachable")
        submit(request)

    rig.qa.submit = forecast  # type: ignore[method-assign]
    await go_on(rig)
    await rig.until(first, second)
    assert (isinstance(first.error, AdmissionError), told(second)) == (True, MISS)
    assert (len(rig.vectors.seen), told(await rig.ask(REPAIR))) == (1, NEAR)


async def test_a_drain_sends_it_to_the_model_while_that_takes_it() -> None:
    rig = Rig()
    request = await looked_up(rig, MEND)
    rig.near.hasten()
    assert (rig.runs, rig.near.pending) == (1, 0)
    await rig.until(request)
    assert told(request) == MISS
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR


async def test_a_job_gets_a_near_answer_too() -> None:
    rig = Rig()
    await rig.ask(MEND)
    assert told(await rig.ask(REPAIR, background=Background(timeout_s=30.0), timeout_s=math.inf)) == NEAR


# -- shadow mode ------------------------------------------------------------------------------------------------------


def watching(rig_rate: float = 1.0, limit: float = 0.2) -> tuple[Rig, Shadow]:
    rig = Rig()
    shadow = Shadow(rig.tier.turn_off, sample_rate=rig_rate, max_false_hit_rate=limit, least_hits=4)
    opened = rig.near.opened
    assert opened is not None
    rig.near.open(opened._replace(shadow=shadow), "on")
    return rig, shadow


async def test_hits_that_are_compared_with_the_model() -> None:
    rig, shadow = watching()
    rig.qa.function = lambda texts: [np.full(texts.shape, b"the same", object), np.ones(texts.shape, np.int64)]
    await rig.ask(MEND)
    for _ in range(6):
        assert told(await rig.ask(REPAIR)) == ("semantic", b"the same")
    await soon(lambda: shadow.compared == 6)
    assert (shadow.false_hits, rig.tier.off, rig.runs) == (0, set(), 7)
    assert all(one.background is not None for one in rig.qa.seen[1:])


async def test_hits_that_are_wrong_too_often_turn_it_off() -> None:
    rig, shadow = watching()
    await rig.ask(MEND)
    while not shadow.tripped("semantic"):
        assert told(await rig.ask(REPAIR)) == NEAR
        await soon(lambda: shadow.compared == rig.runs - 1)
        assert shadow.compared <= 4
    assert told(await rig.ask(REPAIR)) == MISS_REPAIR
    assert shadow.false_hits == shadow.compared
    assert rig.near.told.startswith("off for near texts: ")
    assert told(await rig.ask(MEND.lower())) == NEAR, "the same words have not been wrong"


async def test_the_same_words_that_are_wrong_too_often_are_turned_off_alone() -> None:
    rig, shadow = watching()
    rig.qa.function = lambda texts: [texts, np.ones(texts.shape, np.int64)]  # capital letters make another answer
    await rig.ask(MEND)
    while not shadow.tripped("normalised"):
        assert told(await rig.ask(MEND.lower()))[0] == "semantic"
        await soon(lambda: shadow.compared == rig.runs - 1)
        assert shadow.compared <= 4
    assert rig.near.facts["semantic_cache"].startswith("on; off for the same words: ")
    assert told(await rig.ask(MEND.lower())) == ("miss", MEND.lower().encode())
    assert told(await rig.ask(REPAIR))[0] == "semantic"


async def test_a_row_is_compared_with_its_own_row_of_a_batch() -> None:
    rig, shadow = watching()
    await rig.ask(MEND, requested=(0,))
    finish = rig.qa.finish

    def among_others(request: Request) -> None:
        if request.background is not None:
            rig.qa.run(request)
            assert request.outputs is not None
            first: list[Array] = [np.concatenate([one[:0], one, one]) for one in request.outputs.arrays]
            first[0][0, 0], first[0][1, 0] = b"another's", NEAR[1]
            request.outputs.arrays, request.row_start = first, 1
            request.on_done(request)
        else:
            finish(request)

    rig.qa.finish = among_others  # type: ignore[method-assign]
    assert told(await rig.ask(REPAIR, requested=(0,))) == NEAR
    await soon(lambda: shadow.compared)
    assert shadow.false_hits == 0


async def test_a_comparison_that_cannot_run_says_nothing() -> None:
    rig, shadow = watching()
    await rig.ask(MEND)
    rig.qa.refuse_with = AdmissionError("full", code="queue_full")
    assert told(await rig.ask(REPAIR)) == NEAR
    rig.qa.refuse_with, rig.qa.fail_with = None, ExecutionError("no", code="model_error")
    assert told(await rig.ask(REPAIR)) == NEAR
    assert shadow.compared == 0
