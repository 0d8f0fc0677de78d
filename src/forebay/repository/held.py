"""What the registry keeps of each version of a model, what it tells of it, and whom it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from forebay.engine.engine import Engine

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
