"""Semantic caches open and shut as models and embedders come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from tests.unit.api.conftest import FunctionEngine
from tests.unit.engine.cascade_rig import calibration
from tests.unit.engine.semantic_rig import MEND, REPAIR, embedding, semantic_rules, shouting, soon

from forebay.agreement.watch import AgreementWatch
from forebay.api import semantic as semantic_module
from forebay.api.auth import Gate, Keys, Quota
from forebay.api.caches import Caches
from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.api.semantic import SemanticTiers
from forebay.cache.port import Match
from forebay.cascade.policy import CascadeRules
from forebay.core.caching import USUAL_ASK, CacheRules
from forebay.core.errors import SetupError
from forebay.core.request import Request, output_array
from forebay.core.settings import CacheSettings, ServerSettings
from forebay.core.tensors import Array, pack_bytes
from forebay.engine.cascade import Opened
from forebay.telemetry.metrics import Metrics

ON = "on: cosine from 0.9800 (not calibrated), vectors by vectors"


def sighted(texts: Array) -> list[Array]:
    """An embedder that reads a text to its end, and sees no other difference."""
    tails = [sum(text[-12:]) / 1e6 for text in texts[:, 0]]
    return [np.array([[1.0, tail, 0.0] for tail in tails], np.float32)]


class House:
    """Models that are published by hand."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        caches = Caches(CacheSettings(shared="off"), self.metrics, None)
        gate = Gate(Keys({}), Quota(None, lambda: 0.0))
        self.inference = Inference({}, ServerSettings(), gate, caches.answers, seeks_near=True)
        self.tiers = SemanticTiers(self.inference, caches, self.metrics)

    def serve(self, *engines: FunctionEngine) -> None:
        for engine in engines:
            self.inference.publish(engine)

    def endpoint(self, version: str | None = None) -> Endpoint:
        return self.inference.find("qa", version)

    @property
    def told(self) -> str:
        return self.endpoint().engine.facts["semantic_cache"]

    def submit(self, text: str, version: str | None = None) -> Request:
        payload, now = pack_bytes([text.encode()]), time.monotonic()
        ended: list[Request] = []
        request = Request([payload], ((1,),), 1, len(payload), now + 30.0, now, ended.append, cache=USUAL_ASK)
        request.wire = ended
        self.endpoint(version).engine.submit(request)
        return request

    async def ask(self, text: str, version: str | None = None) -> tuple[str, bytes]:
        request = self.submit(text, version)
        await soon(lambda: request.wire)
        await soon(lambda: True)
        assert request.error is None
        answer: bytes = output_array(request, 0, True)[0, 0]
        return request.cached.outcome, answer


@asynccontextmanager
async def started(*engines: FunctionEngine, must: bool = True) -> AsyncIterator[House]:
    house = House()
    house.serve(*engines)
    try:
        await house.tiers.start(lambda model: must)
        yield house
    finally:
        await house.tiers.close()


def answering(**rules: Any) -> FunctionEngine:
    """A model of texts with a semantic cache."""
    return shouting(caching=CacheRules(60.0, semantic=semantic_rules(**rules)))


def seeing(name: str = "vectors") -> FunctionEngine:
    return embedding(name, sighted)


async def test_it_is_open_once_both_are_there() -> None:
    async with started(answering(), seeing()) as house:
        assert house.told == ON
        assert (await house.ask(MEND))[0] == "miss"
        assert await house.ask(REPAIR) == ("semantic", MEND.upper().encode())
        text = house.metrics.text().decode()
        assert 'forebay_semantic_lookups_total{model="qa",outcome="semantic",version="1"} 1.0' in text
        assert 'forebay_cache_answers_total{model="qa",outcome="semantic",version="1"} 1.0' in text


BAD: list[tuple[str, list[FunctionEngine], dict[str, Any], str]] = [
    ("none", [], {}, r"qa: semantic_embedder = 'vectors' is not served; served beside it: none"),
    ("near name", [seeing("vectros")], {}, r"'vectors' is not served; did you mean 'vectros'\?"),
    ("version", [seeing()], {"embedder": "vectors/7"}, r"semantic_embedder = 'vectors/7' is not served"),
    ("other kind", [shouting("vectors")], {}, r"'vectors' is no embedder: it must take one BYTES input"),
    ("other files", [seeing()], {"calibrated_for": "vectors 0"}, r"calibration was made with another embedder"),
    ("guard", [seeing()], {"calibrated_for": "vectors 1", "guard": 0}, r"with another version of the guard"),
    ("no store", [seeing()], {"index": "store"}, r'semantic_index = "store" needs a store of cached answers: --cache-'),
    ("blind", [embedding()], {}, r"'vectors': the embedder does not read a text of 500 bytes to its end"),
]


@pytest.mark.parametrize(("engines", "rules", "message"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_what_is_wrong_stops_the_start_or_is_told(
    engines: list[FunctionEngine], rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        async with started(answering(**rules), *engines):
            raise AssertionError
    async with started(answering(**rules), *engines, must=False) as house:
        assert house.told.startswith("off: qa: ")
        for text in (MEND, REPAIR):
            assert await house.ask(text) == ("miss", text.upper().encode())


async def test_what_shadow_mode_turned_off_stays_told_when_things_are_looked_at_anew() -> None:
    async with started(answering(max_false_hit_rate=0.1), seeing()) as house:
        near = house.endpoint().near
        assert near is not None
        assert near.opened is not None
        for _ in range(2):
            near.opened.shadow.record("semantic", same=False)
        off = "off for near texts: 2 of the last 2 compared hits were wrong, more than 0.1; on for the same words"
        assert house.told.startswith(off)
        house.serve(shouting("another"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert house.told.startswith(off)
        assert (await house.ask(MEND), (await house.ask(REPAIR))[0]) == (("miss", MEND.upper().encode()), "miss")
        text = house.metrics.text().decode()
        assert 'forebay_semantic_off{model="qa",version="1",way="semantic"} 1.0' in text


async def test_what_shadow_mode_turned_off_stays_off_whoever_answers_for_the_model_meanwhile() -> None:
    qa = answering(max_false_hit_rate=0.1)
    qa.cascading = CascadeRules(student="small", shadow_rate=0.0, calibration=calibration(output="length"))
    async with started(qa, seeing()) as house:
        near, cascade = house.endpoint().near, house.endpoint().cascade
        assert near is not None
        assert near.opened is not None
        assert cascade is not None
        for _ in range(2):
            near.opened.shadow.record("semantic", same=False)
        watch = AgreementWatch(1.0, shadow_rate=0.0, on_fall=lambda reason: None)
        cascade.open(Opened(shouting("small"), watch), "on")
        house.serve(shouting("another"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert house.told.startswith("off for near texts: ")


async def test_a_calibration_for_these_files_holds() -> None:
    async with started(answering(calibrated_for="vectors 1", threshold=0.9), seeing()) as house:
        assert house.told == "on: cosine from 0.9000 (calibrated), vectors by vectors"


async def test_an_embedder_that_mixes_its_batch_must_run_alone() -> None:
    def mixing(texts: Array) -> list[Array]:
        return [sighted(texts)[0] + np.float32(0.1 * len(texts)) * np.eye(3, dtype=np.float32)[2]]

    with pytest.raises(SetupError, match=r"another vector in a batch than alone.*set vectors.batching=off"):
        async with started(answering(), embedding(function=mixing)):
            raise AssertionError
    alone = embedding(function=mixing)
    alone.max_batch_rows = 0
    async with started(answering(), alone) as house:
        assert house.told == ON


async def test_texts_go_with_the_answers_that_are_forgotten() -> None:
    async with started(answering(), seeing()) as house:
        assert house.inference.cache is not None
        await house.ask(MEND)
        house.inference.cache.forget(Match(model="another"))
        assert (await house.ask(MEND.lower()))[0] == "semantic"
        house.inference.cache.forget(Match(model="qa"))
        assert (await house.ask(REPAIR))[0] == "miss"
        near = house.endpoint().near
        assert near is not None
        assert near.opened is not None
        assert near.opened.tier.counts == {"normalised": 1, "none_near": 2}


async def test_versions_are_apart() -> None:
    latest = answering()
    latest.version = "2"
    async with started(answering(), latest, seeing()) as house:
        await house.ask(MEND, "1")
        assert await house.ask(REPAIR, "2") == ("miss", REPAIR.upper().encode())
        assert await house.ask(REPAIR, "1") == ("semantic", MEND.upper().encode())


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_module, "LOOK_AGAIN_S", 0.01)


async def turns(house: House, told: str) -> None:
    await soon(lambda: house.told.startswith(told))


async def test_an_embedder_that_goes_and_comes_again() -> None:
    vectors = seeing()
    async with started(answering(), vectors) as house:
        await house.ask(MEND)
        house.inference.retract(vectors)
        await turns(house, "off: qa: semantic_embedder = 'vectors' is not served")
        assert (await house.ask("Please mend a tire"))[0] == "miss"
        house.serve(seeing())
        await turns(house, "on")
        assert await house.ask(REPAIR) == ("semantic", MEND.upper().encode())


async def test_another_embedder_begins_anew() -> None:
    async with started(answering(), seeing()) as house:
        await house.ask(MEND)
        other = seeing()
        other.digest = "vectors 2"
        house.serve(other)
        await soon(lambda: len(other.seen) == 8)  # it is checked
        opened = house.endpoint().near
        await soon(lambda: opened and opened.opened and opened.opened.vectors.digest == "vectors 2")
        assert await house.ask(REPAIR) == ("miss", REPAIR.upper().encode())


async def test_another_embedder_ends_what_was_calibrated() -> None:
    async with started(answering(calibrated_for="vectors 1"), seeing()) as house:
        other = seeing()
        other.digest = "vectors 2"
        house.serve(other)
        await turns(house, "off: qa: the calibration was made with another embedder")
        assert [(await house.ask(text))[0] for text in (MEND, REPAIR)] == ["miss", "miss"]


async def test_texts_outlive_an_engine_of_the_same_files() -> None:
    async with started(answering(), seeing()) as house:
        await house.ask(MEND)
        house.serve(answering())
        await turns(house, "on")
        assert await house.ask(REPAIR) == ("semantic", MEND.upper().encode())
        other = answering()
        other.digest = "qa 2"
        house.serve(other)
        await turns(house, "on")
        assert await house.ask(REPAIR) == ("miss", REPAIR.upper().encode())


@pytest.mark.usefixtures("soon_again")
async def test_a_failed_check_is_made_again() -> None:
    vectors = seeing()
    vectors.refuse_with = OSError("not now")
    async with started(answering(), vectors, must=False) as house:
        assert house.told == "off: OSError: not now"
        vectors.refuse_with = None
        await turns(house, "on")


async def held(house: House, vectors: FunctionEngine) -> Request:
    vectors.held = []
    request = house.submit(MEND)
    await soon(lambda: vectors.held)
    return request


async def test_an_engine_stays_for_what_is_looked_up() -> None:
    vectors = seeing()
    async with started(answering(), vectors) as house:
        before = house.endpoint().published
        request = await held(house, vectors)
        house.serve(answering())
        assert house.inference.holds(before)
        vectors.finish(vectors.held.pop())  # type: ignore[union-attr]
        await soon(lambda: request.wire)
        assert not house.inference.holds(before)


async def test_a_drain_lets_the_model_answer() -> None:
    vectors = seeing()
    async with started(answering(), vectors) as house:
        request = await held(house, vectors)
        house.tiers.drain()
        await soon(lambda: request.wire)
        assert request.error is None
        assert (await house.ask(REPAIR))[0] == "miss"


async def test_embedders_that_are_cached_or_cached_by_each_other() -> None:
    """An embedder's own semantic cache is passed by: two that name each other would never end."""
    vectors = seeing()
    vectors.caching = CacheRules(60.0, semantic=semantic_rules(embedder="qa"))
    async with started(answering(), vectors, must=False) as house:
        await house.ask(MEND)
        assert await house.ask(REPAIR) == ("semantic", MEND.upper().encode())
    cached = seeing()
    cached.caching = CacheRules(60.0)
    async with started(answering(), cached) as house:
        made = len(cached.seen)
        for text in (MEND, "Please mend 2 tyres"):
            await house.ask(text)
        house.inference.cache.memory.drop(lambda entry: entry.place[0] == "qa")  # type: ignore[union-attr]
        assert (await house.ask("Please mend 2 tyres"))[0] == "miss"
        assert len(cached.seen) - made == 2
