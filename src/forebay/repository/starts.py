"""An engine's way in and out: room in memory, its start, its place among those that share the cores, its end."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.engine.cores import Cores
from forebay.engine.engine import Engine
from forebay.engine.setup import start_engine
from forebay.engine.sizing import Finding
from forebay.models.repository import Stamp, stamp_of
from forebay.repository.memory import MemoryLimit
from forebay.request_log.logs import RequestLogs
from forebay.request_log.spool import Outlet


class Starts:
    """Starts engines and ends them. Whatever goes wrong in a start, the engine is closed before it is told."""

    def __init__(self, cores: Cores | None, memory: MemoryLimit | None, logs: RequestLogs) -> None:
        """cores: what engines share by weight; None: the operating system sees to that. memory: of all models. logs:
        where answered requests are written down, for models that want that."""
        self._cores = cores
        self._memory = memory
        self._logs = logs
        self._logged: dict[Engine, Outlet] = {}

    async def start(self, engine: Engine, files: Sequence[Path], stamp: Stamp) -> None:
        """Start an engine of files that nobody writes to meanwhile, which the stamp tells.

        Raises `SetupError` (config_error, model_load_error, memory_limit), `AdmissionError` (model_not_ready) where
        there is no room in memory.
        """
        try:
            if self._memory is not None:
                await self._memory.before(engine, files)
            await start_engine(engine)
            # Of those that were there: a model may write a file of its own beside them.
            if await asyncio.to_thread(stamp_of, files) != stamp:
                path = engine.plan.source.path
                raise SetupError(
                    f"model {engine.name}: its files changed while it was loaded from {path}; load it again",
                    code="model_load_error",
                )
            if self._memory is not None:
                await self._memory.after(engine)
            await self._log(engine)
        except BaseException:
            await engine.close(0.0)
            raise
        self._share(engine)

    async def sized(self, engine: Engine, found: Finding) -> Engine:
        """A second engine of the same files and settings, with as many instances and threads as were found best.

        Raises as `start`.
        """
        settings = engine.plan.settings
        sized = Engine(dataclasses.replace(engine.plan, found=found, resolve=lambda _: settings))
        try:
            if self._memory is not None:
                await self._memory.before_sized(sized, engine)
            await start_engine(sized)
            if sized.digest != engine.digest:
                raise SetupError(
                    f"model {engine.name}: its files changed meanwhile; load it again", code="model_load_error"
                )
            if self._memory is not None:
                await self._memory.after(sized)
            await self._log(sized)
        except BaseException:
            await sized.close(0.0)
            raise
        self._share(sized)
        return sized

    async def _log(self, engine: Engine) -> None:
        plan = engine.plan
        about = (engine.name, engine.version, engine.digest, engine.signature, engine.labels)
        opened = await asyncio.to_thread(self._logs.open, *about, plan.settings, plan.data_dir)
        if opened is not None:
            sampler, self._logged[engine] = opened
            engine.log_by(sampler)

    def _share(self, engine: Engine) -> None:
        settings = engine.plan.settings
        if self._cores is not None and set(settings.devices) == {"cpu"}:
            self._cores.join(engine, settings.weight, engine.plan.threads)

    async def end(self, engine: Engine, grace_s: float | None) -> None:
        """Let an engine answer what it has, at most so long (None: as long as that takes), and end its processes."""
        try:
            await engine.close(grace_s)
        finally:
            outlet = self._logged.pop(engine, None)
            if outlet is not None:
                self._logs.leave(outlet)
            if self._cores is not None:
                self._cores.leave(engine)
