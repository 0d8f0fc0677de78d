"""`VariantEngine`: an engine in front of which faster forms of its model answer while there is too much for it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from forebay.agreement.compare import same_rows
from forebay.agreement.watch import AgreementWatch
from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, ForebayError, RequestError
from forebay.core.request import Background, Request, output_array
from forebay.engine.client import EngineClient
from forebay.engine.finite import finite_check
from forebay.engine.forwarded import ForwardedEngine
from forebay.telemetry.logs import fields
from forebay.telemetry.variant_metrics import VariantReading, VariantsReading
from forebay.variants.ladder import Ladder
from forebay.variants.policy import VariantRules

log = logging.getLogger("forebay.engine")

PARAMETER = "variant"
"""A request with this parameter is answered by the form that it names, the model itself included, and by no other."""
MOST_COMPARED = 64
"""Comparisons under way at once: they wait behind all that somebody waits for, and must not pile up."""


class Variant(NamedTuple):
    """A form that may answer: it is served, was measured and keeps the floor."""

    engine: EngineClient
    watch: AgreementWatch


class VariantEngine(ForwardedEngine):
    """An `EngineClient` around that of the model itself. Until it is opened it passes on."""

    def __init__(self, inner: EngineClient, rules: VariantRules, clock: Clock) -> None:
        """clock: monotonic seconds, that of deadlines."""
        super().__init__(inner)
        self.rules = rules
        self._clock = clock
        self._told = "off: not checked yet"
        self._levels: list[EngineClient] = [inner]
        self._digests: list[str] = []
        self._variants: dict[str, Variant] = {}
        self._watches: dict[str, AgreementWatch] = {}
        self._pins: dict[str, EngineClient] = {self.name: inner}
        self._ladder = self._new_ladder(1)
        self._requests = {self.name: 0}
        self._steps = {"down": 0, "up": 0}
        self._check = finite_check(self.signature)
        """Its variants may make something of what the model refuses."""
        self._comparing = 0
        self._next_compared = 0
        self._output = [spec.name for spec in inner.signature.outputs].index(rules.measured.output)

    def _new_ladder(self, levels: int) -> Ladder:
        rules = self.rules
        return Ladder(
            levels,
            patience_s=self.inner.default_timeout_s,
            down_after_s=rules.down_after_s,
            up_after_s=rules.up_after_s,
            now=self._clock(),
        )

    def open(self, variants: Mapping[str, Variant], told: str, fallen: Mapping[str, AgreementWatch]) -> None:
        """From now on these may answer, the best first, and the fallen not. The level stays, as far as there is one."""
        level = self._ladder.level
        self._watches = {**{name: one.watch for name, one in variants.items()}, **fallen}
        self._variants, self._told = dict(variants), told
        self._levels = [self.inner, *(one.engine for one in variants.values())]
        self._digests = [_digest(self.inner.digest, one.engine.digest) for one in variants.values()]
        self._pins = {self.name: self.inner, **{name: one.engine for name, one in variants.items()}}
        self._requests |= {name: 0 for name in self._pins if name not in self._requests}
        self._ladder = self._new_ladder(len(self._levels))
        self._ladder.level = min(level, len(self._levels) - 1)

    @property
    def told(self) -> str:
        """Which variants may answer, and why others may not."""
        return self._told

    @property
    def digest(self) -> str:
        """Of the files of whoever answers now: the cache keeps variants apart."""
        level = self._ladder.level
        return self._digests[level - 1] if level else self.inner.digest

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found out at load, and since."""
        return {**self.inner.facts, "variants": self.told}

    # -- in -----------------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`. Raises `RequestError` for a variant that may not answer, whoever is asked for a
        value that the model refuses.
        """
        pinned = request.parameters.get(PARAMETER) if request.parameters else None
        if pinned is not None:
            engine = self._pinned(pinned)
            if engine is not self.inner:
                # Never kept: what keys are about does not change with this variant, which may fall or be another one.
                request.ran_on = f"{PARAMETER} {engine.digest}"
            self._submit_to(request, engine)
        elif len(self._levels) == 1 or request.listener is not None or request.background is not None:
            self._submit_to(request, self.inner)  # a job has time
        else:
            self._submit_by_load(request)

    def _pinned(self, name: Any) -> EngineClient:
        found = self._pins.get(name) if isinstance(name, str) else None
        if found is None:
            raise RequestError(
                f"parameters.{PARAMETER} is {str(name)[:60]!r}; of {self.name!r} there are {', '.join(self._pins)}"
            )
        return found

    def _submit_by_load(self, request: Request) -> None:
        ladder, now = self._ladder, self._clock()
        before = ladder.level
        ladder.arrived(request.rows, now)
        ladder.waits(self._levels[ladder.level].backlog_s, now)
        if ladder.level:
            better = self._levels[ladder.level - 1]
            ladder.could(_rows_per_s(better), now)
        self._tell_of_step(before)
        if ladder.level == 0:
            self._watch_now_and_then(request)
        # Faster ones first, then, where those are gone or overwhelmed as well, better ones.
        order = [*range(ladder.level, len(self._levels)), *reversed(range(ladder.level))]
        for level in order:
            request.ran_on = self._digests[level - 1] if level else self.inner.digest
            try:
                self._submit_to(request, self._levels[level])
                return
            except AdmissionError:
                before = ladder.level
                ladder.waits(math.inf, now)
                self._tell_of_step(before)
                if level == order[-1]:
                    raise
                request.pieces = request.order = None  # what it was to the one that refused it

    def _submit_to(self, request: Request, engine: EngineClient) -> None:
        if self._check is not None and engine is not self.inner:
            self._check(request)
        request.runs_at, request.answered_by = engine, engine.name
        engine.submit(request)
        self._requests[engine.name] += 1

    def _tell_of_step(self, before: int) -> None:
        level = self._ladder.level
        if level == before:
            return
        way = "down" if level > before else "up"
        self._steps[way] += 1
        log.info(
            "model %s steps %s: %s answers, %.0f rows/s come", self.name, way, self._levels[level].name,
            self._ladder.rows_per_s, extra=fields(model=self.name, version=self.version),
        )  # fmt: skip

    def waits(self, request: Request) -> bool:
        """See `EngineClient.waits`."""
        return self._engine_of(request).waits(request)

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        self._engine_of(request).cancel(request)

    def _engine_of(self, request: Request) -> EngineClient:
        engine: EngineClient = request.runs_at or self.inner
        return engine

    # -- whether they still agree -------------------------------------------------------------------------------------

    def _watch_now_and_then(self, request: Request) -> None:
        """Have a variant answer as well what the model itself answers, behind all that somebody waits for."""
        if self._comparing >= MOST_COMPARED:
            return
        names = list(self._variants)
        self._next_compared = (self._next_compared + 1) % len(names)
        variant = self._variants[names[self._next_compared]]
        if variant.watch.wants():
            on_done = request.on_done

            def answered(done: Request) -> None:
                if done.error is None and done.answered_by == self.name:
                    self._compare(done, variant)
                on_done(done)

            request.on_done = answered

    def _compare(self, request: Request, variant: Variant) -> None:
        measured, index = self.rules.measured, self._output
        batched = self.signature.batched
        said = output_array(request, index, batched).copy()

        def compared(again: Request) -> None:
            self._comparing -= 1
            if again.error is None:
                there = output_array(again, index, batched)
                for same in same_rows(said, there, measured.judge, measured.least_cosine, measured.most_apart).tolist():
                    variant.watch.record(same)

        timeout_s = variant.engine.default_timeout_s
        again = msgspec.structs.replace(
            request,
            on_done=compared,
            deadline=self._clock() + timeout_s,
            background=Background(timeout_s),
            runs_at=None,
            wire=None,
            order=None,
            pieces=None,
            lane=None,
            length=0,
            cache=None,
            cached=None,
            requested=None,
            outputs=None,
        )
        try:
            variant.engine.submit(again)
        except ForebayError:
            return  # the next one is compared
        self._comparing += 1

    def reading(self) -> VariantsReading:
        """What metrics tell of it."""
        measured = {
            name: VariantReading(watch.compared, watch.disagreed, watch.agreement, bool(watch.fallen))
            for name, watch in self._watches.items()
        }
        return VariantsReading(self._requests, self._steps, self._ladder.level, measured)


def _digest(model: str, variant: str) -> str:
    return hashlib.sha256(f"variant {model} {variant}".encode()).hexdigest()


def _rows_per_s(engine: EngineClient) -> float:
    """What it can do, by what its rows took so far; infinite where that is not known: it is tried then."""
    row_s = engine.row_compute_s
    return engine.instances / row_s if row_s > 0.0 else math.inf
