"""Models that were unloaded to make room, and are loaded again by the next request for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from forebay.core.errors import AdmissionError, SetupError
from forebay.repository.states import Asked

LOAD_AGAIN_S = 1.0
"""When a client may try again whose model is being loaded, or had no room."""


@dataclass(frozen=True, slots=True)
class Parked:
    """How to load a model again, and how long a request without a timeout of its own waits for that."""

    asked: Asked
    timeout_s: float


class OnDemand:
    """The parked models, and their loads that requests wait for."""

    def __init__(self, load: Callable[[str, Asked], Coroutine[Any, Any, None]]) -> None:
        self._load = load
        self._parked: dict[str, Parked] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}

    def park(self, name: str, parked: Parked) -> None:
        """From now on requests for this model load it."""
        self._parked[name] = parked

    def forget(self, name: str) -> None:
        """It is loaded, or was unloaded for good."""
        self._parked.pop(name, None)

    def names(self) -> list[str]:
        """The parked models."""
        return list(self._parked)

    def covers(self, model: str) -> bool:
        """Whether a request would load this model."""
        return model in self._parked

    async def wake(self, model: str) -> None:
        """Wait until a parked model is loaded, as long as a request for it may take; a load that takes longer goes on.

        Raises `AdmissionError` (model_not_ready) where it is not loaded by then, or cannot be.
        """
        parked = self._parked.get(model)
        if parked is None:
            return
        load = self._loads.get(model)
        if load is None:
            load = self._loads[model] = asyncio.ensure_future(self._load(model, parked.asked))
            load.add_done_callback(lambda done: self._ended(model, done))
        done, _ = await asyncio.wait([load], timeout=parked.timeout_s)
        if not done:
            raise AdmissionError(f"model {model!r} is being loaded", code="model_not_ready", retry_after_s=LOAD_AGAIN_S)
        error = None if load.cancelled() else load.exception()
        if isinstance(error, AdmissionError):
            raise error
        if error is not None:
            reason = error.message if isinstance(error, SetupError) else type(error).__name__
            raise AdmissionError(f"model {model!r} cannot be loaded again: {reason}", code="model_not_ready")

    def _ended(self, model: str, load: asyncio.Task[None]) -> None:
        del self._loads[model]
        # Asked for, so that it is no unseen failure; one for which there was no room is tried again later.
        if not load.cancelled() and load.exception() is not None and not isinstance(load.exception(), AdmissionError):
            self.forget(model)
