"""Keeps an engine's instances up: starts them, replaces those that die, and gives up slowly where they cannot live."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import msgspec

from forebay.core.errors import SetupError
from forebay.engine import frames
from forebay.engine.instance import Instance, InstanceOwner, LoadPlan
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

FREE_DEATHS = 3
"""Deaths of each instance within `WINDOW_S` after which a replacement is delayed, twice as long each time."""
WINDOW_S = 30.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0


class CrashLoopGuard:
    """How long to wait before the next start. Pure: the caller brings the time."""

    def __init__(self) -> None:
        self.free_deaths = FREE_DEATHS
        """Within the window. More instances may die more often, and all at once, before that is a loop."""
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> float:
        """Count a death; returns the seconds to wait before the replacement is started."""
        self._deaths.append(now)
        self._forget(now)
        over = len(self._deaths) - self.free_deaths
        return 0.0 if over <= 0 else min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (over - 1))

    def forgive(self, deaths: int) -> None:
        """These deaths were one request's fault, not the model's."""
        for _ in range(min(deaths, len(self._deaths))):
            self._deaths.pop()

    def looping(self, now: float) -> bool:
        """Whether replacements are being delayed."""
        self._forget(now)
        return len(self._deaths) > self.free_deaths

    def _forget(self, now: float) -> None:
        while self._deaths and now - self._deaths[0] > WINDOW_S:
            self._deaths.popleft()


class Supervisor:
    """The instances of one engine, by number."""

    def __init__(self, owner: InstanceOwner, on_up: Callable[[Instance, frames.ReadyHeader], None]) -> None:
        self.instances: dict[int, Instance] = {}
        self.guard = CrashLoopGuard()
        self._owner = owner
        self._on_up = on_up
        self._starting: dict[int, asyncio.Future[frames.ReadyHeader]] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self._plans: dict[int, LoadPlan] = {}
        self._limits: dict[int, asyncio.TimerHandle] = {}
        self._closing = False

    @property
    def ready(self) -> int:
        """Instances that can run a batch."""
        return sum(instance.ready for instance in self.instances.values())

    @property
    def wanted(self) -> int:
        """Instances that there should be."""
        return len(self._plans)

    async def start(self, number: int, plan: LoadPlan) -> frames.ReadyHeader:
        """Start an instance and wait until it is warm. Raises `SetupError` (`model_load_error`)."""
        self._plans[number] = plan
        self.guard.free_deaths = FREE_DEATHS * len(self._plans)
        future: asyncio.Future[frames.ReadyHeader] = asyncio.get_running_loop().create_future()
        self._starting[number] = future
        try:
            await self._launch(number, plan)
            return await future
        except OSError as error:
            name = plan.source.name
            raise SetupError(f"model {name}: no process could be started: {error}", code="model_load_error") from error
        finally:
            self._starting.pop(number, None)

    async def _launch(self, number: int, plan: LoadPlan) -> None:
        instance = self.instances[number] = Instance(number, plan, self._owner)
        await instance.start()
        self._lift_limit(number)
        loop = asyncio.get_running_loop()
        self._limits[number] = loop.call_later(plan.load_timeout_s, self._too_slow, instance)

    def _lift_limit(self, number: int) -> None:
        limit = self._limits.pop(number, None)
        if limit is not None:
            limit.cancel()

    def _too_slow(self, instance: Instance) -> None:
        """The instance has not loaded in time; `on_lost` follows."""
        if not instance.ready and not self._closing:
            instance.kill(f"it took longer than load_timeout_s, {instance.plan.load_timeout_s:g} s,")

    async def stop(self, number: int) -> None:
        """End one instance; it is not replaced."""
        await self.instances.pop(number).close()

    def on_ready(self, instance: Instance, header: frames.ReadyHeader) -> None:
        """An instance is loaded and warm."""
        self._lift_limit(instance.number)
        log.info(
            "instance %d of %s is ready after %.2f s",
            instance.number,
            instance.plan.source.name,
            time.monotonic() - instance.started_s,
            extra=fields(model=instance.plan.source.name, pid=instance.pid),
        )
        self._on_up(instance, header)
        future = self._starting.get(instance.number)
        if future is not None and not future.done():
            future.set_result(header)

    def on_lost(self, instance: Instance, reason: str, *, blamed: bool) -> None:
        """An instance died. `blamed`: a request is under suspicion, so the death does not count against the model."""
        self._lift_limit(instance.number)
        future = self._starting.get(instance.number)
        if future is not None and not future.done():
            source = instance.plan.source
            message = instance.load_error or f"model {source.name}: {reason} while it loaded {source.path}"
            future.set_exception(SetupError(message, code="model_load_error"))
            return
        if self._closing:
            return
        delay_s = 0.0 if blamed else self.guard.died(time.monotonic())
        log.warning(
            "instance %d of %s is lost: %s; a new one starts %s",
            instance.number,
            instance.plan.source.name,
            reason,
            f"in {delay_s:g} s" if delay_s else "now",
            extra=fields(model=instance.plan.source.name, pid=instance.pid),
        )
        restart = asyncio.get_running_loop().create_task(self._restart(instance.number, delay_s))
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    async def _restart(self, number: int, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        if self._closing:
            return
        # What was measured once is known: a replacement only warms up.
        plan = msgspec.structs.replace(self._plans[number], measure_s=0.0)
        try:
            await self._launch(number, plan)
        except Exception as error:
            # Too many open files, too many processes: later it may work again. Whatever it is, a replacement that
            # nobody waits for must not end unseen.
            lost = self.instances[number]
            lost.arena.close()
            self.on_lost(lost, f"no process could be started: {error}", blamed=False)

    async def close(self) -> None:
        """End all instances."""
        self._closing = True
        for restart in list(self._restarts):
            restart.cancel()
        for number in list(self._limits):
            self._lift_limit(number)
        await asyncio.gather(*(instance.close() for instance in self.instances.values()))
