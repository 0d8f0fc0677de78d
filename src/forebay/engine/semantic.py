"""`SemanticEngine`: an engine in front of which a text may get the answer to another one that asks the same.

It stands behind the exact cache (`CachedEngine`), so that what comes here is known to have no answer of its own, and
equal requests wait beside the one that comes. Looking up takes an embedding and so a moment, in which the request is
not in the model's queue; whatever fails or takes too long is a miss, and the model runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from forebay.cache.answer_cache import AnswerCache
from forebay.cache.entry import Entry, OutputForm
from forebay.cache.key import KeyMaker, digest_of
from forebay.cache.semantic.index import Origin, Way
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.prompt import prompt_of_text
from forebay.cache.semantic.shadow import Shadow, same_outputs
from forebay.cache.semantic.tier import Hit, SemanticTier
from forebay.cache.single_flight import Flight
from forebay.core.caching import CacheAsk, CacheNote, CacheRules, SemanticRules
from forebay.core.errors import ExecutionError, ForebayError, RequestError
from forebay.core.request import Background, Outputs, Request, output_array
from forebay.core.tensors import Array, element_count, unpack_bytes
from forebay.engine.cached import CachedEngine
from forebay.engine.client import EngineClient
from forebay.engine.flight import nobody
from forebay.engine.forwarded import ForwardedEngine
from forebay.engine.text_vectors import TextVectors
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

SHARE_OF_TIME = 0.5
"""Of what is left until its deadline a request spends at most so much on being looked up: the rest is the model's."""
MOST_GONE = 4
"""Texts in a row whose answers are no longer kept, after which it is a miss."""


class Opened(NamedTuple):
    """What it takes to look up: all of it is there, and checked."""

    tier: SemanticTier
    shadow: Shadow
    vectors: TextVectors


class Sought(msgspec.Struct, gc=False):
    """One text on its way. `vector`: once it was made."""

    opened: Opened
    partition: Partition
    text: str
    ask: CacheAsk
    vector: Array | None = None


class Near(NamedTuple):
    """What was found for it."""

    entry: Entry
    hit: Hit


class SemanticEngine(ForwardedEngine):
    """An `EngineClient` around another one. Until it is opened, and for all but single texts, it passes on."""

    def __init__(self, inner: EngineClient, rules: CacheRules, semantic: SemanticRules, cache: AnswerCache) -> None:
        super().__init__(inner)
        self.semantic = semantic
        self._shared = rules.shared
        self._stale_s = rules.stale_s
        self._clock = cache.clock
        self._memory = cache.memory
        self._digest = inner.digest
        self._keys = KeyMaker(self.name, self.version, self._digest, self.signature)
        self._form = OutputForm(self.signature)
        self._kept: CachedEngine
        self._opened: Opened | None = None
        self._told = "off: not checked yet"
        self._looking: dict[Request, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def stand_behind(self, kept: CachedEngine) -> None:
        """What has the answers, and passes on what it does not have; before anything is opened."""
        self._kept = kept

    def open(self, opened: Opened, told: str) -> None:
        """From now on texts are looked up."""
        self._opened, self._told = opened, told

    def shut(self, reason: str) -> None:
        """From now on they are not."""
        self._opened, self._told = None, f"off: {reason}"

    @property
    def opened(self) -> Opened | None:
        """By what texts are looked up; None: they are not."""
        return self._opened

    @property
    def told(self) -> str:
        """Whether near texts are answered alike, and if not why; what shadow mode has turned off since counts."""
        return self._told if self._opened is None else self._opened.shadow.told(self._told)

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found out at load, and since."""
        return {**self.inner.facts, "semantic_cache": self.told}

    @property
    def pending(self) -> int:
        """Requests that are looked up now."""
        return len(self._looking)

    # -- in -----------------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`."""
        opened, flight = self._opened, request.cached
        if type(flight) is not Flight or flight.sought or self.inner.state != "ready":
            self.inner.submit(request)
            return
        sought = self._sought(request, opened) if opened is not None else None
        if opened is None or sought is None:
            flight.sought = True
            self.inner.submit(request)
            return
        self._looking[request] = asyncio.get_running_loop().create_task(self._look(request, flight, sought))

    def _sought(self, request: Request, opened: Opened) -> Sought | None:
        """None: it is not one to look up."""
        ask, payload = request.cache, request.inputs[0]
        if ask is None or ask.use != "use" or request.rows != 1 or isinstance(payload, list):
            return None
        if element_count(request.shapes[0]) != 1:
            return None
        try:
            text = unpack_bytes(payload, 1)[0].decode()
        except (RequestError, UnicodeDecodeError):
            return None
        if self.inner.digest != self._digest:  # a model of workers that was announced anew
            self._digest = self.inner.digest
            self._keys = KeyMaker(self.name, self.version, self._digest, self.signature)
        tenant = "" if self._shared else ask.tenant
        prompt = prompt_of_text(text)
        partition = Partition(
            model=self.name,
            artefact=f"{self._digest} {self.version}",
            parameters=self._keys.all_but_values(request, tenant),
            system_prompt=prompt.system,
            tenant=tenant,
            embedder=opened.vectors.digest,
            locale="",  # a parameter, where the model has one
        )
        return Sought(opened, partition, prompt.text, ask)

    async def _look(self, request: Request, flight: Flight, sought: Sought) -> None:
        timeout_s = max(0.0, min(self.semantic.timeout_s, SHARE_OF_TIME * (request.deadline - self._clock())))
        near = None
        try:
            async with asyncio.timeout(timeout_s):
                near = await self._find(request, sought, timeout_s)
        except TimeoutError:
            sought.opened.tier.counts["timeout"] += 1
        except Exception:
            log.exception("looking up a near text failed", extra=fields(model=self.name))
        del self._looking[request]
        if near is not None:
            self._serve(request, flight, sought.opened, near)
        else:
            self._miss(request, flight, sought)

    async def _find(self, request: Request, sought: Sought, timeout_s: float) -> Near | None:
        tier = sought.opened.tier

        async def embed(text: str) -> Array:
            if sought.vector is None:
                sought.vector = (await sought.opened.vectors.of([text], timeout_s, sought.partition.tenant))[0]
            return sought.vector

        for _ in range(MOST_GONE):
            hit = (await tier.find(sought.partition, sought.text, embed)).hit
            if hit is None:
                return None
            entry = await self._kept.recall(bytes.fromhex(hit.entry_id), request)
            if entry is not None:
                return Near(entry, hit) if self._serves(entry, sought, self._clock()) else None
            if sought.ask.max_age_s is not None:
                return None  # it may only be too old for this caller
            await tier.forget(sought.partition, hit.entry_id)
        return None

    def _serves(self, entry: Entry, sought: Sought, now: float) -> bool:
        """Whether this caller may have it. One that is to be computed anew is left to those who ask it exactly."""
        if entry.place != (self.name, self.version) or entry.tenant != sought.partition.tenant:
            return False
        limit_s = sought.ask.max_age_s
        return now < entry.stale_until - self._stale_s and (limit_s is None or now - entry.created <= limit_s)

    # -- what comes of it ---------------------------------------------------------------------------------------------

    def _serve(self, request: Request, flight: Flight, opened: Opened, near: Near) -> None:
        entry, now = near.entry, self._clock()
        self._form.answer(entry, request)
        flight.near = CacheNote("semantic", entry.told_id(), now - entry.created, near.hit.score, entry)
        if not entry.shared:
            self._work(self._kept.share(entry))
        if opened.shadow.wants(near.hit.way):
            self._compare(request, opened.shadow, near.hit.way)
        self._give(request)

    def _miss(self, request: Request, flight: Flight, sought: Sought | None) -> None:
        flight.sought = True
        if sought is not None and sought.vector is not None:
            flight.by_row, flight.on_kept = False, partial(self._learn, sought)
        try:
            self.inner.submit(request)
            return
        except ForebayError as error:
            request.error = error
        except Exception:
            log.exception("a request could not be submitted", extra=fields(model=self.name))
            request.error = ExecutionError("the request could not be submitted; the log says why", code="model_error")
        self._give(request)

    def _give(self, request: Request) -> None:
        on_done, request.on_done = request.on_done, nobody
        try:
            on_done(request)
        except Exception:
            log.exception("an answer could not be delivered", extra=fields(model=self.name))

    def _learn(self, sought: Sought, entry: Entry) -> None:
        """The answer to a text is kept: it can be found from now on."""
        self._work(self._remember(sought, entry, self._memory.generation))

    async def _remember(self, sought: Sought, entry: Entry, generation: int) -> None:
        vector = sought.vector
        assert vector is not None
        if self.semantic.index == "store" and self._memory.generation == generation:
            await self._kept.share(entry)  # others find the text, and then want the answer
        if self._memory.generation != generation:
            return  # answers were forgotten since, perhaps this one
        origin = Origin(entry.tenant, entry.place, entry.tags, digest_of(entry.key))
        await sought.opened.tier.store(sought.partition, entry.key.hex(), sought.text, vector, origin)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._background.add(running)
        running.add_done_callback(self._background.discard)

    def _compare(self, request: Request, shadow: Shadow, way: Way) -> None:
        """Have the model run as well, behind all that somebody waits for, and note whether it says the same."""
        batched = self.signature.batched
        served = _own_outputs(request, batched)

        def compared(again: Request) -> None:
            if again.error is None:
                shadow.record(way, same_outputs(served, _own_outputs(again, batched)))

        now, timeout_s = self._clock(), self.inner.default_timeout_s
        again = msgspec.structs.replace(
            request,
            on_done=compared,
            arrived=now,
            deadline=now + timeout_s,
            background=Background(timeout_s),
            cache=None,
            cached=None,
            wire=None,
            order=None,
            pieces=None,
            outputs=None,
        )
        try:
            self.inner.submit(again)
        except ForebayError:
            pass  # the next hit is compared

    # -- out ----------------------------------------------------------------------------------------------------------

    def waits(self, request: Request) -> bool:
        """See `EngineClient.waits`."""
        return request in self._looking or self.inner.waits(request)

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        looking = self._looking.pop(request, None)
        if looking is None:
            self.inner.cancel(request)
            return
        request.on_done = nobody
        looking.cancel()

    def hasten(self) -> None:
        """The server is about to take nothing more: what is looked up goes to the model while it still may."""
        self._opened = None
        for request, looking in list(self._looking.items()):
            del self._looking[request]
            looking.cancel()
            self._miss(request, request.cached, None)


def _own_outputs(request: Request, batched: bool) -> Outputs:
    """The outputs that a request asked for, without those of the others in its batch."""
    outputs = request.outputs
    assert outputs is not None
    wanted = range(len(outputs.arrays)) if request.requested is None else request.requested
    return Outputs(
        [outputs.names[index] for index in wanted],
        [outputs.datatypes[index] for index in wanted],
        [output_array(request, index, batched) for index in wanted],
        request.rows,
    )
