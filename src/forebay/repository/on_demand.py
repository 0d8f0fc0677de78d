"""Models that were unloaded to make room, and are loaded again by the next request for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, ForebayError, RequestError
from forebay.engine.engine import Engine
from forebay.repository.states import Asked
from forebay.telemetry.logs import fields

LOAD_AGAIN_S = 1.0
"""When a client may try again whose model is being loaded, or had no room."""
FIRST_PAUSE_S: Final = 1.0
MOST_PAUSE_S: Final = 60.0
"""How long a model that could not be loaded is left alone, doubled each time: a load makes room, so it costs others."""

log = logging.getLogger("forebay.repository")

Load = Callable[[str, Asked], Coroutine[Any, Any, None]]
VersionsOf = Callable[[str, Asked], Coroutine[Any, Any, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Parked:
    """How to load a model again, and how long a request without a timeout of its own waits for that."""

    asked: Asked
    timeout_s: float

    @classmethod
    def of(cls, engines: Iterable[Engine], asked: Asked) -> Parked:
        """Of a model with these engines."""
        return cls(asked, max(engine.default_timeout_s for engine in engines))


@dataclass(frozen=True, slots=True)
class Failed:
    """What came of the last load of a model that is still parked, and until when there is no other."""

    model: str
    error: BaseException
    pause_s: float
    again_at: float

    def told(self, now: float) -> ForebayError:
        """What a request gets. That the model is not there any more is as true of any other name."""
        if isinstance(self.error, RequestError):
            return RequestError(self.error.message, code=self.error.code)
        reason = self.error.message if isinstance(self.error, ForebayError) else type(self.error).__name__
        return AdmissionError(
            f"model {self.model!r} cannot be loaded again: {reason}",
            code="model_not_ready",
            retry_after_s=max(LOAD_AGAIN_S, self.again_at - now),
        )


class OnDemand:
    """The parked models, and their loads that requests wait for."""

    def __init__(self, load: Load, versions: VersionsOf, clock: Clock = time.monotonic) -> None:
        """versions: those that a load would bring up; none where only the load can tell. Raises `RequestError`
        (model_not_found)."""
        self._load = load
        self._versions = versions
        self._clock = clock
        self._parked: dict[str, Parked] = {}
        self._failed: dict[str, Failed] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}

    def park(self, name: str, parked: Parked) -> None:
        """From now on requests for this model load it."""
        self._parked[name] = parked
        self._failed.pop(name, None)

    def forget(self, name: str) -> None:
        """It is loaded, or was unloaded for good."""
        self._parked.pop(name, None)
        self._failed.pop(name, None)

    def names(self) -> list[str]:
        """The parked models."""
        return list(self._parked)

    def covers(self, model: str) -> bool:
        """Whether a request would load this model."""
        return model in self._parked

    def refusal(self, model: str) -> ForebayError:
        """What is answered about a parked model where nothing is loaded for that."""
        failed = self._failed.get(model)
        if failed is not None and model not in self._loads:
            return failed.told(self._clock())
        return AdmissionError(
            f"model {model!r} is unloaded to make room for others; the next request for inference loads it",
            code="model_not_ready",
        )

    async def wake(self, model: str, version: str | None = None) -> None:
        """Wait until a parked model is loaded, as long as a request for it may take; a load that takes longer goes on.

        A load that fails leaves it parked, unless another version serves: after a pause the next request tries again.
        Raises `AdmissionError` (model_not_ready) where it is not loaded by then, or cannot be, and `RequestError`
        (model_not_found) where its files are gone, or there is no such version: nothing is loaded for that.
        """
        if model not in self._parked:
            return
        if model not in self._loads:
            failed = self._failed.get(model)
            if failed is not None and self._clock() < failed.again_at:
                raise failed.told(self._clock())
            if version is not None:
                await self._check_version(model, version)
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
        if isinstance(error, AdmissionError) and model in self._parked:
            raise error
        failed = self._failed.get(model)
        if error is not None and failed is not None:
            raise failed.told(self._clock())

    async def _check_version(self, model: str, version: str) -> None:
        offered = await self._versions(model, self._parked[model].asked)
        if offered and version not in offered:
            raise RequestError(
                f"model {model!r} has no version {version!r}; it has {', '.join(offered)}", code="model_not_found"
            )

    def _ended(self, model: str, load: asyncio.Task[None]) -> None:
        del self._loads[model]
        error = None if load.cancelled() else load.exception()
        # One for which there was no room is tried again by the next request.
        if error is None or isinstance(error, AdmissionError):
            return
        if isinstance(error, ForebayError):
            log.error("%s", error.message, extra=fields(model=model, code=error.code))
        else:
            log.error("an unloaded model could not be loaded again", exc_info=error, extra=fields(model=model))
        if model in self._parked:
            before = self._failed.get(model)
            pause_s = FIRST_PAUSE_S if before is None else min(MOST_PAUSE_S, 2 * before.pause_s)
            self._failed[model] = Failed(model, error, pause_s, self._clock() + pause_s)
