"""Tells the directory what is served here, keeps that up, and takes it back at the end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable

import msgspec

from forebay.core.errors import DependencyError
from forebay.engine.client import EngineClient
from forebay.jobs.directory import RENEW_EVERY_S, Directory, ServedModel

log = logging.getLogger("forebay.worker")

WITHDRAW_S = 2.0
"""How long taking it back may last; the announcement ends by itself soon after."""


def served_model(engine: EngineClient) -> ServedModel:
    """What is told of one engine."""
    tuning = engine.tuning
    return ServedModel(
        name=engine.name,
        version=engine.version,
        signature=engine.signature,
        digest=engine.digest,
        platform=engine.platform,
        labels=tuple(engine.labels),
        label_file=engine.label_file,
        facts=dict(engine.facts),
        max_batch_rows=engine.max_batch_rows,
        streams=engine.streams,
        default_timeout_s=engine.default_timeout_s,
        instances=engine.instances,
        max_queue_delay_ms=engine.max_queue_delay_ms,
        caching=engine.caching,
        tuning=msgspec.to_builtins(tuning) if tuning is not None else None,
    )


class Announcer:
    """`start` it once, in a running event loop, when the models are there."""

    def __init__(self, directory: Directory, engines: Callable[[], Iterable[EngineClient]]) -> None:
        """`engines`: all that are served now."""
        self.worker = secrets.token_urlsafe(9)
        """The id of this process among workers."""
        self._directory = directory
        self._engines = engines
        self._told: list[ServedModel] | None = None
        """None: nothing is known to stand there."""
        self._names: set[str] = set()
        """Of models that were told of and not given up since."""
        self._retired = False
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.reason = "this worker has not been announced yet"
        """Why others do not know of this worker; empty when they do."""
        self._failing = False

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._run(), name="forebay announcer")

    def wake(self) -> None:
        """Other models are served than before."""
        self._news.set()

    async def retire(self) -> None:
        """Serve nobody who comes from now on, but be there: what was taken is still answered."""
        self._retired = True
        try:
            async with asyncio.timeout(WITHDRAW_S):
                await self.once()
        except (DependencyError, TimeoutError):
            pass  # calls that come are given back

    async def withdraw(self) -> None:
        """Serve nobody any more: web processes learn of it at once."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.wait([self._running])
        self._running = None
        try:
            async with asyncio.timeout(WITHDRAW_S):
                await self._directory.withdraw(self.worker)
        except (DependencyError, TimeoutError) as error:
            log.warning("the announcement of this worker could not be taken back and ends by itself: %s", error)

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.once()
                self.reason, self._failing = "", False
            except DependencyError as error:
                self._fails(f"this worker cannot be announced: {error.message}")
            except Exception as error:  # it goes on whatever happens: without it nobody knows of this worker
                self._fails(f"announcing this worker failed: {error!r}")
            try:
                async with asyncio.timeout(RENEW_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _fails(self, reason: str) -> None:
        """One line for each time that it begins to fail."""
        self._told = None
        if not self._failing:
            log.warning("%s", reason)
        self.reason, self._failing = reason, True

    async def once(self) -> None:
        """Tell what is new, or that all is as before. Raises `DependencyError`."""
        engines = list(self._engines())
        ready = [served_model(engine) for engine in engines if engine.state == "ready" and not self._retired]
        if ready == self._told and await self._directory.renew(self.worker):
            return
        names = {engine.name for engine in engines}
        await self._directory.announce(self.worker, ready, sorted(self._names - names))
        self._told, self._names = ready, names
