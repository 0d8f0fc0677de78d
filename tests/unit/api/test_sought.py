"""Requests for which other processes are asked are answered where their engine is replaced, or the server ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.unit.api.conftest import FunctionEngine, build_engines
from tests.unit.engine.semantic_rig import soon
from tests.unit.engine.test_shared_cached import Store

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.api.site import Site
from forebay.api.web_site import WebSite
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.cache.memory_shared import SharedMemory
from forebay.cache.shared_tier import SharedTier
from forebay.core.caching import USUAL_ASK, CacheRules
from forebay.core.errors import AdmissionError
from forebay.core.request import Request
from forebay.core.settings import CacheSettings, JobSettings, ServerSettings
from forebay.engine.setup import Plan
from forebay.models.source import ModelSource
from forebay.repository.catalog import Catalog
from forebay.repository.registry import Registry

GATE = Gate(Keys({}), Quota(None, time.monotonic))
HERE_ALONE = CacheSettings(shared="off")


def no_plan(source: ModelSource, overrides: object) -> Plan:
    raise AssertionError("no model is loaded here")


def published(inference: Inference) -> tuple[FunctionEngine, Endpoint, Store]:
    """A model whose answers are kept, and a store that does not answer."""
    answers = inference.cache
    assert answers is not None
    store = Store(SharedMemory(time.monotonic, 1 << 20))
    store.hangs = True
    answers.tier = SharedTier(store, 3600.0, time.monotonic, answers.metrics)
    engine = build_engines()["mlp"]
    engine.digest, engine.caching = "d", CacheRules(60.0)
    inference.publish(engine)
    return engine, inference.find("mlp"), store


def submitted(endpoint: Endpoint) -> Request:
    now, ended = time.monotonic(), list[Request]()
    request = Request([[1.0] * 4], ((4,),), 1, 16, now + 30.0, now, ended.append, cache=USUAL_ASK, wire=ended)
    endpoint.engine.submit(request)
    return request


def drains(monkeypatch: pytest.MonkeyPatch, owner: type, engine: FunctionEngine) -> None:
    """From then on the engine refuses."""

    def drain(self: object) -> None:
        engine.refuse_with = AdmissionError("the server is shutting down", code="draining")

    monkeypatch.setattr(owner, "drain", drain)


async def test_an_engine_is_held_until_what_is_sought_is_submitted() -> None:
    site = Site(ServerSettings(), GATE, Catalog((), ()), no_plan, "", cache=HERE_ALONE)
    before, endpoint, _ = published(site.inference)
    request = submitted(endpoint)
    published(site.inference)
    assert site.inference.holds(before)
    endpoint.engine.cancel(request)
    assert not site.inference.holds(before)


async def test_a_server_that_ends_has_the_model_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(ServerSettings(), GATE, Catalog((), ()), no_plan, "", cache=HERE_ALONE)
    engine, endpoint, _ = published(site.inference)
    drains(monkeypatch, Registry, engine)
    request = submitted(endpoint)
    site.drain()
    await soon(lambda: request.wire)
    assert request.error is None


async def test_a_web_process_that_ends_has_a_worker_answer(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1"
    site = WebSite(ServerSettings(), GATE, JobSettings(store=url), HERE_ALONE, url, WebhookSecrets())
    _, endpoint, _ = published(site.inference)
    request = submitted(endpoint)
    site.drain()
    await soon(lambda: request.wire)
    assert request.error is None
