"""A model and two faster forms of it, and what stands in front of them."""

from __future__ import annotations

import time
from typing import Any

from tests.unit.api.conftest import FunctionEngine
from tests.unit.engine.cascade_rig import SIGNATURE, engine

from forebay.agreement.watch import AgreementWatch
from forebay.engine.variants import Variant, VariantEngine
from forebay.models.signature import Signature
from forebay.variants.policy import Measured, MeasuredVariant, VariantRules

BEST, FAST, FASTEST = 1, 2, 3
"""What `by` says."""


def measured_one(name: str, accuracy: float, **changes: Any) -> MeasuredVariant:
    given: dict[str, Any] = {
        "name": name,
        "digest": f"{name} 1",
        "accuracy": accuracy,
        "agreement": accuracy,
        "rows_per_s": 1.0,
    }
    return MeasuredVariant(**{**given, **changes})


def measured(**changes: Any) -> Measured:
    variants = measured_one("fast", 0.98), measured_one("fastest", 0.9)
    given: dict[str, Any] = {
        "model": measured_one("large", 1.0),
        "variants": variants,
        "rows": 1000,
        "labelled": False,
        "output": "p",
        "judge": "probabilities",
    }
    return Measured(**{**given, **changes})


def rules(shadow_rate: float = 0.0, names: tuple[str, ...] = ("fast", "fastest"), **changes: Any) -> VariantRules:
    return VariantRules(
        measured=measured(**changes), names=names, down_after_s=0.0, up_after_s=5.0, shadow_rate=shadow_rate
    )


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class Rig:
    """A model whose variants may answer."""

    def __init__(self, shadow_rate: float = 0.0, signature: Signature = SIGNATURE, **changes: Any) -> None:
        """signature: of the model. changes: what was measured otherwise."""
        self.best, self.fast, self.fastest = engine("large", BEST), engine("fast", FAST), engine("fastest", FASTEST)
        self.best.signature = signature
        self.clock = Clock()
        self.front = VariantEngine(self.best, rules(shadow_rate, **changes), self.clock)
        self.watches = {name: self.watch(shadow_rate) for name in ("fast", "fastest")}
        self.open(fast=self.fast, fastest=self.fastest)

    def watch(self, shadow_rate: float) -> AgreementWatch:
        return AgreementWatch(0.02, shadow_rate=shadow_rate, draw=lambda: 0.0)

    def open(self, **engines: FunctionEngine) -> None:
        self.front.open({name: Variant(one, self.watches[name]) for name, one in engines.items()}, "on", {})

    def rush(self, on: bool = True) -> None:
        """Rows wait, or do not, wherever they are."""
        for one in (self.best, self.fast, self.fastest):
            one.backlog_s = 20.0 if on else 0.0
