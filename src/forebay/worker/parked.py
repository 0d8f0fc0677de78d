"""Models that were unloaded to make room are loaded again where jobs wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from forebay.core.errors import DependencyError, ForebayError
from forebay.jobs.store import JobQueue
from forebay.telemetry.logs import fields

LOOK_S: Final = 1.0
"""How often it is looked for such jobs. A job that runs keeps its model from being unloaded, so that models which take
turns in too little memory change at most so often."""

log = logging.getLogger("forebay.worker")


class ParkedModels:
    """`run` it for as long as jobs are run here."""

    def __init__(
        self,
        queue: JobQueue,
        parked: Callable[[], Iterable[str]],
        wake: Callable[[str], Awaitable[None]],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """`parked`: names of the models that could be loaded again. `wake`: load one; raises `ForebayError` where
        that is not possible now."""
        self._queue = queue
        self._parked = parked
        self._wake = wake
        self._look_s = look_s

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self.once()
            except DependencyError:
                pass  # others tell of it
            except Exception:  # it goes on whatever happens: without it such jobs would wait for ever
                log.exception("looking for jobs of unloaded models failed")
            await asyncio.sleep(self._look_s)

    async def once(self) -> None:
        """One look. Models are loaded one after the other, by name. Raises
        `DependencyError`."""
        for model in sorted(self._parked()):
            if (await self._queue.depth(model)).waiting:
                try:
                    await self._wake(model)
                except ForebayError as error:  # no room now, a load that takes long and goes on, or one that has failed
                    log.debug("jobs wait: %s", error.message, extra=fields(model=model, code=error.code))
