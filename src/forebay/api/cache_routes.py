"""The answer cache for operators and for callers who were answered wrongly: counts, one entry, forgetting.

A caller with an API key sees and drops what was kept for that key, and what a model shares among all keys. Without keys
everything is everybody's.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request as HttpRequest

from forebay.api.auth import ANONYMOUS
from forebay.api.elements import show
from forebay.api.inference import Inference
from forebay.api.job_openapi import problems
from forebay.api.openapi import operation
from forebay.api.problems import Answer, detailed_of
from forebay.api.routing import add, document
from forebay.cache.answer_cache import AnswerCache
from forebay.cache.entry import Entry
from forebay.cache.key import digest_of_id
from forebay.cache.port import Match, Stored
from forebay.cache.value import unpack
from forebay.core.errors import RequestError
from forebay.core.settings_values import did_you_mean

_QUERY = ("model", "version", "tag")


class Held(msgspec.Struct):
    """Answers in one place."""

    entries: int
    bytes: int


class ModelCounts(msgspec.Struct):
    """What came of the requests for one version of a model that asked the cache."""

    model: str
    version: str
    exact: int
    coalesced: int
    semantic: int
    miss: int
    saved_s: float


class CacheStats(msgspec.Struct):
    """The answer cache. `store`: null where there is none."""

    memory: Held
    store: Held | None
    models: list[ModelCounts]


class EntryDocument(msgspec.Struct):
    """One kept answer, without its values."""

    id: str
    model: str
    version: str
    tags: tuple[str, ...]
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    age_s: float
    expires_in_s: float
    compute_s: float
    where: str
    """`memory` of this process, or `store`."""


class Dropped(msgspec.Struct):
    """How many answers were forgotten. `store`: null where there is none."""

    memory: int
    store: int | None


def add_cache(app: FastAPI, inference: Inference) -> None:
    """Adds the operations."""
    calls = _Calls(inference)
    plain: dict[str, Any] = {"content": {"application/json": {"schema": {"type": "object"}}}}
    some = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": text}
        for name, text in (
            ("model", "Only of this model."),
            ("version", "Only of this version."),
            ("tag", "Only these."),
        )
    ]
    one = "/v1/cache/{entry}"
    for path, method, operate, summary, extra, errors in (
        ("/v1/cache", "GET", calls.stats, "The answer cache", operation(), ()),
        ("/v1/cache", "DELETE", calls.clear, "Forget cached answers", operation(parameters=some), (400,)),
        (one, "GET", calls.inspect, "A cached answer", operation("entry"), (404,)),
        (one, "DELETE", calls.drop, "Forget a cached answer", operation("entry"), (400, 404)),
    ):
        described: dict[int | str, Any] = {200: {"description": summary + ".", **plain}, **problems(*errors)}
        add(app, path, operate, described, summary, "cache", method=method, extra=extra, refuse=detailed_of)


class _Calls:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def stats(self, http: HttpRequest) -> Answer:
        _, cache = self._enter(http)
        store = None
        if cache.tier is not None:
            found = await cache.tier.store.stats()
            store = Held(found.entries, found.nbytes)
        counted = sorted(cache.metrics.models.items())
        models = [
            ModelCounts(*place, counts.hits, counts.coalesced, counts.semantic, counts.misses, counts.saved_s)
            for place, counts in counted
        ]
        return document(CacheStats(Held(len(cache.memory), cache.memory.nbytes), store, models))

    async def inspect(self, http: HttpRequest) -> Answer:
        tenant, cache = self._enter(http)
        id, digest = self._digest(http)
        entry, now = cache.memory.named(id), cache.clock()
        if entry is not None and _may_see(tenant, entry):
            told = _told(entry, id, now - entry.created, entry.stale_until - now, "memory")
            return document(told)
        if cache.tier is not None:
            (found,), _ = await cache.tier.store.exchange([(digest, "")])
            if isinstance(found, Stored):
                entry = _unpacked(found.value, id)
                if _may_see(tenant, entry):
                    return document(_told(entry, id, found.age_s, found.left_s, "store"))
        raise _unknown(id)

    async def drop(self, http: HttpRequest) -> Answer:
        tenant, cache = self._enter(http)
        if http.query_params:
            raise RequestError("an entry is one answer: name no model, version or tag beside it")
        id, digest = self._digest(http)
        dropped = await _drop(cache, tenant, Match(digest=digest))
        if not dropped.memory and not dropped.store:
            raise _unknown(id)
        return document(dropped)

    async def clear(self, http: HttpRequest) -> Answer:
        tenant, cache = self._enter(http)
        wanted: dict[str, str] = {}
        for name, value in http.query_params.multi_items():
            if name not in _QUERY or name in wanted or not value:
                known = f"{', '.join(_QUERY)}{did_you_mean(name[:40], _QUERY)}"
                raise RequestError(f"query parameter {show(name)}: there are {known}, each at most once and not empty")
            wanted[name] = value
        if "version" in wanted and "model" not in wanted:
            raise RequestError("a version is one of a model: name the model too")
        match = Match(None, wanted.get("model", ""), wanted.get("version", ""), wanted.get("tag", ""))
        return document(await _drop(cache, tenant, match))

    def _enter(self, http: HttpRequest) -> tuple[str | None, AnswerCache]:
        """Whose answers the caller may see (None: all), and the cache."""
        tenant = self._inference.gate.enter(http.headers.get("authorization", "").encode("latin-1") or None)
        if self._inference.cache is None:
            raise RequestError("there is no cache on this server", code="unsupported")
        return None if tenant == ANONYMOUS else tenant, self._inference.cache

    @staticmethod
    def _digest(http: HttpRequest) -> tuple[str, bytes]:
        id: str = http.path_params["entry"]
        digest = digest_of_id(id)
        if digest is None:
            raise _unknown(id)
        return id, digest


async def _drop(cache: AnswerCache, tenant: str | None, match: Match) -> Dropped:
    """Those of the tenant, and those that all share."""
    memory, store = 0, None
    for whose in (None,) if tenant is None else (tenant, ""):
        mine = msgspec.structs.replace(match, tenant=whose)
        memory += cache.forget(mine)
        if cache.tier is not None:
            store = (store or 0) + await cache.tier.store.drop(mine)
            memory += cache.forget(mine)  # of what was found in the store until it was gone there
        if cache.texts is not None:
            await cache.texts.clear(mine)
    return Dropped(memory, store)


def _may_see(tenant: str | None, entry: Entry) -> bool:
    return tenant is None or entry.tenant in ("", tenant)


def _told(entry: Entry, id: str, age_s: float, left_s: float, where: str) -> EntryDocument:
    size = sum(map(len, entry.data)) if isinstance(entry.data, tuple) else len(entry.data)
    return EntryDocument(
        id, *entry.place, entry.tags, entry.rows, entry.shapes, size, age_s, left_s, entry.compute_s, where
    )


def _unpacked(value: bytes, id: str) -> Entry:
    try:
        return unpack(b"", value)
    except ValueError:  # whatever the store holds, it is no answer
        raise _unknown(id) from None


def _unknown(id: str) -> RequestError:
    return RequestError(f"there is no cached answer {show(id)}", code="cache_entry_not_found")
