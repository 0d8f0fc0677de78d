"""What is known of each version of each model, what a load asks for, and where requests come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from forebay.engine.engine import Engine
from forebay.models.repository import VersionPolicy

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
UNLOADED = "unloaded"


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


class Known(NamedTuple):
    """One line of the index. `version` is empty for a model that has none."""

    name: str
    version: str
    state: State
    reason: str
