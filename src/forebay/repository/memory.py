"""Keeps all models within `server.memory_limit_bytes`: the least recently used idle ones make room for what is loaded.

A model that was unloaded for that is loaded again by the next request for it (`on_demand.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from forebay.core.errors import AdmissionError, SetupError
from forebay.core.settings import DEFAULT_TIMEOUT_S
from forebay.engine.engine import Engine
from forebay.engine.memory import held_bytes
from forebay.repository.budget import Loaded, make_room

IDLE_WAIT_S = 2.0
"""How long a load waits for a model to become idle that could make room."""
ENDING_WAIT_S = DEFAULT_TIMEOUT_S
"""How long a load waits at most, for models that are on their way out too: they answer what they have let in."""
LOOK_S = 0.05
LIMIT = "server.memory_limit_bytes"

Measure = Callable[[Iterable[int]], int]
"""Bytes that the processes of these ids hold together."""


class MemoryLimit:
    """The limit, what models were seen to hold, and the room for one more. On the event loop."""

    def __init__(
        self,
        limit_bytes: int,
        engines: Callable[[], Sequence[Engine]],
        ending: Callable[[], Collection[asyncio.Task[None]]],
        unload: Callable[[str, str], Collection[asyncio.Task[None]]],
        is_busy: Callable[[str], bool],
        measure: Measure = held_bytes,
    ) -> None:
        """engines: those that hold memory, ending ones too. ending: the endings of those that are unloaded. unload: a
        model, for a reason, unless it is busy; gives its endings. is_busy: whether a model is being loaded, resized or
        unloaded, or waits for that."""
        self.limit_bytes = limit_bytes
        self.unloads = True
        """Whether models may be unloaded to make room. Not at the start: none has been used then."""
        self._engines = engines
        self._ending = ending
        self._unload = unload
        self._is_busy = is_busy
        self._measure = measure
        self._alone = asyncio.Lock()
        self._seen_bytes: dict[str, int] = {}
        self._loaded_at: dict[Engine, float] = {}

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """One load at a time, from the room for it until it serves."""
        async with self._alone:
            yield

    async def before(self, engine: Engine, files: Sequence[Path]) -> None:
        """Make room for an engine that is to be started, by what is known of it.

        Raises `SetupError` (memory_limit) where there could never be enough, `AdmissionError` (model_not_ready) where
        others are in use.
        """
        size_bytes = await asyncio.to_thread(_size_bytes, files)
        await self._fit(engine, self._expected_bytes(engine, size_bytes), "is expected to take")

    async def before_sized(self, sized: Engine, engine: Engine) -> None:
        """`before`, of an engine that is to take the place of one of another size, by what that one holds."""
        held = await asyncio.to_thread(self._measure, _pids(engine))
        each = engine.plan.settings.memory_bytes or held // max(1, engine.instances)
        await self._fit(sized, each * sized.plan.instances, "is expected to take")

    async def free_bytes(self) -> int:
        """What is left of the limit; below 0 where models have grown beyond it."""
        pids = [pid for engine in self._engines() for pid in _pids(engine)]
        return self.limit_bytes - await asyncio.to_thread(self._measure, pids)

    async def after(self, engine: Engine) -> None:
        """Make room for an engine that has started, by what it holds. Raises as `before`."""
        need_bytes = await asyncio.to_thread(self._measure, _pids(engine))
        self._seen_bytes[engine.name] = need_bytes
        await self._fit(engine, need_bytes, "holds")
        self._loaded_at = {one: at for one, at in self._loaded_at.items() if one in self._engines()}
        self._loaded_at[engine] = time.time()

    def _expected_bytes(self, engine: Engine, size_bytes: int) -> int:
        plan = engine.plan
        instances = plan.instances or max(1, plan.usable_cores // plan.threads)
        if plan.settings.memory_bytes:
            return plan.settings.memory_bytes * instances
        seen_bytes = self._seen_bytes.get(engine.name)
        # Of a model that was never loaded the files are known: it will hold them at least.
        return seen_bytes if seen_bytes is not None else size_bytes * instances

    async def _fit(self, engine: Engine, need_bytes: int, takes: str) -> None:
        what = f"model {engine.name} {takes} {_mib(need_bytes)} in {_processes(engine)}"
        if need_bytes > self.limit_bytes:
            raise SetupError(
                f"{what}, and {LIMIT} is {_mib(self.limit_bytes)}; raise it, or set {engine.name}.instances lower",
                code="memory_limit",
            )
        reason = f"unloaded to make room for {engine.name} ({LIMIT}); the next request loads it"
        began = time.monotonic()
        while True:
            loaded = await self._loaded(engine)
            room = make_room(loaded, need_bytes, self.limit_bytes)
            if room.over_bytes <= 0 and not room.unload:
                return
            waited_s = time.monotonic() - began
            left_s = ENDING_WAIT_S - waited_s
            if left_s > 0 and room.over_bytes <= 0 and self.unloads:
                leaving = [ending for name in room.unload for ending in self._unload(name, reason)]
                if leaving:
                    # All of them: what one that still ends holds must not cost yet another its place.
                    await asyncio.wait(leaving, timeout=left_s)
            elif left_s > 0 and self.unloads and waited_s <= IDLE_WAIT_S:
                await asyncio.sleep(LOOK_S)
            elif left_s > 0 and (ending := self._ending()):
                # What is on its way out will be room soon.
                await asyncio.wait(ending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                held = ", ".join(f"{one.name} {_mib(one.held_bytes)}" for one in loaded)
                raise AdmissionError(
                    f"{what}, and {LIMIT} is {_mib(self.limit_bytes)}: there is no room beside {held}",
                    code="model_not_ready",
                )

    async def _loaded(self, without: Engine) -> list[Loaded]:
        """What holds memory now, by model. Versions of one model count together."""
        by_model: dict[str, list[Engine]] = {}
        for engine in self._engines():
            if engine is not without:
                by_model.setdefault(engine.name, []).append(engine)
        found: list[Loaded] = []
        for name, engines in by_model.items():
            used = max(max(one.statistics().last_inference_ms / 1e3, self._loaded_at.get(one, 0.0)) for one in engines)
            in_use = any(one.in_flight > 0 or one.state == "draining" for one in engines)
            in_use = in_use or name == without.name or self._is_busy(name)
            pids = [pid for one in engines for pid in _pids(one)]
            found.append(Loaded(name, await asyncio.to_thread(self._measure, pids), used, in_use))
        return found


def _size_bytes(files: Sequence[Path]) -> int:
    """Of those that are there: a settings file need not be."""
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _pids(engine: Engine) -> list[int]:
    return [instance.pid for instance in list(engine.supervisor.instances.values()) if instance.pid]


def _processes(engine: Engine) -> str:
    count = len(engine.supervisor.instances) or engine.plan.instances
    return "its instances" if not count else f"{count} instance{'s' * (count > 1)}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f} MiB"
