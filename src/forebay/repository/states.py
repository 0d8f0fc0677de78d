"""What is known of each version of each model, what a load asks for, and where requests come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from forebay.engine.engine import Engine
from forebay.models.repository import VersionPolicy
from forebay.repository.catalog import Offer

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
UNLOADED, NOT_CHOSEN = "unloaded", "not in its version_policy"
"""Reasons that nothing is wrong."""


class Serving(Protocol):
    """Where requests come from."""

    def publish(self, engine: Engine) -> None:
        """From now on requests for its model and version go to this engine, in place of any other."""
        ...

    def retract(self, engine: Engine) -> None:
        """No new request goes to this engine."""
        ...

    def holds(self, engine: Engine) -> bool:
        """Whether a request was let in for this engine and is not submitted yet: its body is still arriving."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a load request asks for beside what is on disk: settings of the model, and which versions."""

    overrides: Mapping[str, object] = field(default_factory=dict)
    policy: VersionPolicy | None = None


@dataclass(slots=True)
class Held:
    """One version of a model. `reason` says why it is in its state, or why its last load failed."""

    state: State = "UNAVAILABLE"
    reason: str = UNLOADED
    engine: Engine | None = None
    fingerprint: str = ""
    ending: Engine | None = None
    """The engine that is being unloaded."""


def why_not_loaded(versions: Mapping[int, Held], version: str | None) -> str:
    """Why a version does not serve; None: the latest that failed, else the latest. Empty: it serves, or is unknown."""
    absent = [(number, held) for number, held in sorted(versions.items(), reverse=True) if held.engine is None]
    for number, held in sorted(absent, key=lambda one: one[1].reason in (UNLOADED, NOT_CHOSEN)):
        if version in (None, str(number)):
            return "it is being unloaded" if held.state == "UNLOADING" else held.reason
    return ""


def told(held: Held, offer: Offer | None) -> tuple[State, str]:
    """What the index says of a version. `offer`: its model as it is on disk now."""
    engine = held.engine
    if engine is not None and engine.state != "ready":
        return ("UNLOADING" if engine.state == "draining" else "UNAVAILABLE"), engine.reason
    if engine is None and held.reason == UNLOADED and offer is not None and offer.problem:
        return held.state, offer.problem
    return held.state, held.reason


def not_ready(engines: Iterable[Engine]) -> list[str]:
    """Which engines in service cannot answer now, and why."""
    return [
        f"model {engine.name} version {engine.version}: {engine.state}: {engine.reason}"
        for engine in engines
        if engine.state != "ready"
    ]


class Known(NamedTuple):
    """One line of the index. `version` is empty for a model that has none."""

    name: str
    version: str
    state: State
    reason: str
