"""Models that workers have, published here as they come and go: those of a process without engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from forebay.api.inference import Inference
from forebay.core.errors import DependencyError
from forebay.engine.remote import RemoteEngine
from forebay.jobs.directory import RENEW_EVERY_S, Directory, Known, Standing, standing
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics

log = logging.getLogger("forebay.api")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Between two tries to reach a store."""
LOST_AFTER = 3
"""Looks in a row that fail before workers are no longer trusted to be there."""
EMPTY_FOR_S = 2 * RENEW_EVERY_S
"""So long models are kept of which a store suddenly knows nothing at all: it was emptied, and workers tell it anew."""


class RemoteModels:
    """`start` it once, in a running event loop."""

    def __init__(
        self,
        directory: Directory,
        inference: Inference,
        metrics: Metrics,
        engine_of: Callable[[Standing], RemoteEngine],
        on_look: Callable[[Known], None],
    ) -> None:
        """`on_look` is called with what each look has found."""
        self.reason = "the store of jobs has not been reached yet"
        """Why it is not known what workers have; empty while that is known."""
        self._directory = directory
        self._inference = inference
        self._metrics = metrics
        self._engine_of = engine_of
        self._on_look = on_look
        self._engines: dict[tuple[str, str], RemoteEngine] = {}
        self._replaced: list[RemoteEngine] = []
        self._differ: set[tuple[str, str, int]] = set()
        self._empty_since: float | None = None
        self._told = ""
        self._running: asyncio.Task[None] | None = None
        inference.not_started = self.reason

    @property
    def engines(self) -> list[RemoteEngine]:
        """Those that are published."""
        return list(self._engines.values())

    def start(self) -> None:
        """Begin to look."""
        self._running = asyncio.create_task(self._run(), name="forebay models of workers")

    async def close(self) -> None:
        """Look no more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        news = self._directory.news()
        failed = 0
        while True:
            try:
                known = await self._directory.look()
                if not self._is_emptied(known):
                    self.take(known)
                    self._on_look(known)
                if self.reason and failed:
                    log.info("the store of jobs can be reached again")
                failed, self.reason = 0, ""
            except Exception as error:  # it goes on whatever happens: without it no change would ever be seen
                failed += 1
                self._fails(error, failed)
                await asyncio.sleep(min(FIRST_PAUSE_S * 2.0**failed, LONGEST_PAUSE_S))
                continue
            try:
                async with asyncio.timeout(RENEW_EVERY_S):
                    await anext(news)
            except TimeoutError:
                pass

    def _fails(self, error: Exception, failed: int) -> None:
        """One line for each time that it begins to fail, and for each other reason."""
        if isinstance(error, DependencyError):
            # Clients are told it, and /readyz, which anybody may ask.
            text = error.public_message
            if failed == 1 or error.message != self._told:
                self._told = error.message
                log.warning("it is not known what workers have: %s", error.message)
        else:
            text = "looking what workers have failed; the log says why"
            if failed == 1:
                log.error("looking what workers have failed", exc_info=error)
        if self._inference.not_started or failed >= LOST_AFTER:
            self.reason = text
        if self._inference.not_started:
            self._inference.not_started = text

    def _is_emptied(self, known: Known) -> bool:
        """Whether to wait and see: a client should not hear of a model that is there that there is no such model."""
        if known.workers or known.last or not self._engines:
            self._empty_since = None
            return False
        now = asyncio.get_running_loop().time()
        if self._empty_since is None:
            self._empty_since = now
        return now - self._empty_since < EMPTY_FOR_S

    def take(self, known: Known) -> None:
        """From now on, what is published is this."""
        self._inference.not_started = ""
        stand = standing(known)
        for place, one in stand.items():
            engine = self._engines.get(place)
            if engine is not None and engine.same_form(one):
                engine.stand(one)
            else:
                self._publish(place, one)
            self._tell_differences(place, one)
        for place in self._engines.keys() - stand.keys():
            engine = self._engines.pop(place)
            self._inference.retract(engine)
            self._let_go(engine)
            log.info("no worker has %s version %s any more", *place, extra=fields(model=place[0], version=place[1]))
        self._replaced = [engine for engine in self._replaced if self._inference.holds(engine)]

    def _publish(self, place: tuple[str, str], one: Standing) -> None:
        before = self._engines.get(place)
        engine = self._engines[place] = self._engine_of(one)
        if before is not None:
            self._let_go(before)
        else:
            names = fields(model=place[0], version=place[1], digest=one.model.digest)
            log.info("%s version %s is announced by workers", *place, extra=names)
        self._metrics.add(engine.metrics)
        self._inference.publish(engine)

    def _let_go(self, engine: RemoteEngine) -> None:
        """Requests that it has let in are still sent."""
        self._metrics.remove(engine.metrics)
        self._replaced.append(engine)

    def _tell_differences(self, place: tuple[str, str], one: Standing) -> None:
        if not one.differs:
            self._differ = {known for known in self._differ if known[:2] != place}
        elif (*place, one.order) not in self._differ:
            self._differ.add((*place, one.order))
            log.warning(
                "workers have %s version %s with another %s; the one announced last counts",
                *(*place, " and another ".join(one.differs)),
                extra=fields(model=place[0], version=place[1], digest=one.model.digest),
            )
