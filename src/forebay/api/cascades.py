"""Cascades of one server: opened once their students are there and are those that were measured, else shut."""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

from forebay.agreement.watch import AgreementWatch
from forebay.api.companions import Companions, Pair, check_same_form, no_pair
from forebay.api.inference import Inference
from forebay.cascade.policy import CascadeRules, check_measured
from forebay.core.errors import SetupError
from forebay.engine.cascade import CascadeEngine, Opened
from forebay.engine.client import EngineClient
from forebay.telemetry.cascade_metrics import CascadeMetrics
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics

log = logging.getLogger("forebay.api")


class _Watched(NamedTuple):
    """How well a pair agrees, as long as `like` stays: the digests of both, and the rules."""

    like: tuple[str, str, CascadeRules]
    watch: AgreementWatch


class Cascades(Companions[CascadeEngine]):
    """See `Companions`."""

    def __init__(self, inference: Inference, metrics: Metrics, pair: Pair = no_pair) -> None:
        metrics.cascades = CascadeMetrics()
        super().__init__(inference, lambda endpoint: endpoint.cascade, "cascades", metrics.cascades.models, pair)
        self._watched: dict[tuple[str, str], _Watched] = {}

    def drain(self) -> None:
        """Students are asked no more; what they were asked goes to the teachers now."""
        super().drain()
        for cascade in self._fronts():
            cascade.hasten()

    def _look(self, front: CascadeEngine) -> SetupError | None:
        before = front.told
        about = fields(model=front.name, version=front.version)
        try:
            student = self._student(front)
        except SetupError as error:
            front.shut(error.message)
            if front.told != before:
                log.warning("model %s answers everything itself: %s", front.name, error.message, extra=about)
            return None if self._parked(front.rules.student) else error
        watch = self._watch_of(front, student)
        if watch.fallen:
            front.shut(watch.fallen)
            return None
        self.pair(front.name, student.name)
        found = front.rules.calibration
        told = (
            f"on: {student.name} answers where it is sure by {found.threshold:.4f}, {found.answered / found.rows:.0%}"
        )
        front.open(Opened(student, watch), f"{told} of the rows it was measured with")
        if front.told != before:
            log.info("model %s: cascade %s", front.name, front.told, extra=about)
        return None

    def _watch_of(self, cascade: CascadeEngine, student: EngineClient) -> AgreementWatch:
        place, rules = (cascade.name, cascade.version), cascade.rules
        like = (cascade.inner.digest, student.digest, rules)
        kept = self._watched.get(place)
        if kept is None or kept.like != like:
            on_fall = partial(self._fell, place)
            kept = _Watched(like, AgreementWatch(rules.allowed, shadow_rate=rules.shadow_rate, on_fall=on_fall))
            self._watched[place] = kept
        self._readings[place] = partial(cascade.reading, kept.watch)
        return kept.watch

    def _fell(self, place: tuple[str, str], reason: str) -> None:
        name, version = place
        log.error(
            "model %s answers everything itself from now on: %s",
            name,
            reason,
            extra=fields(model=name, version=version),
        )
        for cascade in self._fronts():
            if (cascade.name, cascade.version) == place:
                cascade.shut(reason)

    def _student(self, cascade: CascadeEngine) -> EngineClient:
        """Raises `SetupError`."""
        model, rules = cascade.name, cascade.rules
        student = self._served(model, rules.student, "student")
        check_measured(model, rules, cascade.inner.digest, student.digest)
        check_same_form(model, "student", rules.student, cascade.signature, student.signature)
        return student
