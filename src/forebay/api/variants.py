"""Variants of the models of one server: those that are served and are as they were measured may answer, no others."""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

from forebay.agreement.watch import AgreementWatch
from forebay.api.companions import Companions, Pair, check_same_form, no_pair
from forebay.api.inference import Inference
from forebay.core.binomial import upper_bound
from forebay.core.errors import SetupError
from forebay.engine.client import EngineClient
from forebay.engine.variants import Variant, VariantEngine
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.variant_metrics import VariantMetrics
from forebay.variants.policy import MeasuredVariant

log = logging.getLogger("forebay.api")


class _Watched(NamedTuple):
    """How well a variant agrees, as long as the digests stay: the model's and its own."""

    like: tuple[str, str]
    watch: AgreementWatch


class Variants(Companions[VariantEngine]):
    """See `Companions`."""

    def __init__(self, inference: Inference, metrics: Metrics, pair: Pair = no_pair) -> None:
        metrics.variants = VariantMetrics()
        super().__init__(inference, lambda endpoint: endpoint.variants, "variants", metrics.variants.models, pair)
        self._watched: dict[tuple[str, str, str], _Watched] = {}

    def _look(self, front: VariantEngine) -> SetupError | None:
        before, measured = front.told, front.rules.measured
        found: dict[str, Variant] = {}
        fallen: dict[str, AgreementWatch] = {}
        told: list[str] = []
        wrong: SetupError | None = None
        for name in front.rules.names:
            one = next(one for one in measured.variants if one.name == name)
            try:
                variant = self._variant(front, one)
            except SetupError as error:
                wrong = wrong or (None if self._parked(name) else error)
                told.append(f"off: {error.message}")
                continue
            if variant.watch.fallen:
                fallen[name] = variant.watch
                told.append(f"off: {name}: {variant.watch.fallen}")
                continue
            found[name] = variant
            told.append(f"on: {name}, accuracy {one.accuracy:.4f} ({measured.model.accuracy:.4f} the model itself)")
        front.open(found, "; ".join(told), fallen)
        self._readings[front.name, front.version] = front.reading
        if front.told != before:
            level = logging.WARNING if len(found) < len(front.rules.names) else logging.INFO
            about = fields(model=front.name, version=front.version)
            log.log(level, "model %s: variants %s", front.name, front.told, extra=about)
        return wrong

    def _variant(self, front: VariantEngine, one: MeasuredVariant) -> Variant:
        """Raises `SetupError`."""
        model = front.name
        engine = self._served(model, one.name, "variant")
        for which, was, now in (
            (model, front.rules.measured.model.digest, front.inner.digest),
            (one.name, one.digest, engine.digest),
        ):
            if was != now:
                raise SetupError(
                    f"{model}: its variants were measured with another {which} than the one served; measure anew: "
                    "forebay variants MODEL VARIANT... --samples FILE"
                )
        check_same_form(model, "variant", one.name, front.signature, engine.signature)
        self.pair(model, engine.name)
        return Variant(engine, self._watch_of(front, engine, one))

    def _watch_of(self, front: VariantEngine, engine: EngineClient, one: MeasuredVariant) -> AgreementWatch:
        place = front.name, front.version, one.name
        like = front.inner.digest, engine.digest
        kept = self._watched.get(place)
        if kept is None or kept.like != like:
            rows = front.rules.measured.rows
            # What so many rows bear out, no more: of 100 that all agreed it may be one in thirty that does not.
            allowed = upper_bound(round((1.0 - one.agreement) * rows), rows)
            watch = AgreementWatch(allowed, shadow_rate=front.rules.shadow_rate, on_fall=partial(self._fell, place))
            kept = self._watched[place] = _Watched(like, watch)
        return kept.watch

    def _fell(self, place: tuple[str, str, str], reason: str) -> None:
        name, version, variant = place
        about = fields(model=name, version=version)
        log.error("variant %s of model %s may not answer from now on: %s", variant, name, reason, extra=about)
        self._news.set()
