"""`auto`: measuring in the background how many instances and threads serve a model best, and taking that.

One model at a time, while requests leave the machine mostly idle; a model that is in demand waits for a quiet moment.
What is found takes effect as a reload does: the new engine is warm before the old one gets no more requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from forebay.core.errors import ForebayError
from forebay.engine.client import Tuning
from forebay.engine.drift import FIRST_PAUSE_S as FIRST_DRIFT_PAUSE_S
from forebay.engine.drift import LONGEST_PAUSE_S as LONGEST_DRIFT_PAUSE_S
from forebay.engine.drift import Drift
from forebay.engine.engine import Engine
from forebay.engine.setup import tuning_of
from forebay.engine.sizing import BUDGET_S, Finding, Size
from forebay.engine.trial_frames import Order
from forebay.engine.trials import order_for, run_trial
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.repository")

LOOK_S = 1.0
"""How often it is looked whether the machine is idle enough."""
DRIFT_LOOKS = 10
"""How often it is looked whether costs have changed, in multiples of that."""
IDLE_SHARE = 0.15
"""Measuring begins while requests take less of the machine than this."""
BUSY_SHARE = 0.4
"""Measuring is given up when they take more than this: figures and requests would spoil each other."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 600.0
"""After measuring was given up, until it is tried again; twice as long each time."""

Swap = Callable[[Engine, Finding], Awaitable[None]]
"""Put an engine of this size in an engine's place. Raises `ForebayError` where that cannot be."""
Run = Callable[[Order, Callable[[Mapping[Size, float]], None]], Coroutine[Any, Any, Finding]]
"""Measure; see `run_trial`."""


class Demand:
    """Which share of the machine is at work for requests, from one look to the next."""

    def __init__(self, clock: Callable[[], float], process_s: Callable[[], float]) -> None:
        """process_s: CPU seconds of this process so far."""
        self._clock, self._process_s = clock, process_s
        self._seen: tuple[float, float, float] | None = None

    def look(self, engines: Iterable[Engine], cores: int) -> float | None:
        """The share since the last look, 0 to 1; None at the first one."""
        engines = list(engines)
        now, web_s = self._clock(), self._process_s()
        busy_s = sum(engine.metrics.compute_s.total * engine.plan.threads for engine in engines)
        last, self._seen = self._seen, (now, web_s, busy_s)
        if last is None or now <= last[0]:
            return None
        # A batch counts when it has ended; those that have run since before the last look are at work all along.
        long = sum(engine.plan.threads for engine in engines for began in engine.running_since() if began <= last[0])
        took_s = now - last[0]
        spent_s = max(0.0, busy_s - last[2]) + max(0.0, web_s - last[1]) + long * took_s
        return min(1.0, spent_s / (took_s * max(1, cores)))


class Tuner:
    """Measures the models that are `auto`, one after the other, for as long as there are any."""

    def __init__(
        self,
        swap: Swap,
        engines: Callable[[], list[Engine]],
        is_loading: Callable[[], bool],
        free_bytes: Callable[[], Awaitable[int]] | None = None,
        *,
        run: Run = run_trial,
        demand: Demand | None = None,
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """engines: all that serve. is_loading: whether a model is being loaded, which measures too. free_bytes: what is
        left of a limit of memory; None: there is no limit."""
        self._swap, self._engines, self._is_loading, self._free_bytes = swap, engines, is_loading, free_bytes
        self._run_trial = run
        self._demand = demand or Demand(time.monotonic, time.process_time)
        self._look_s, self._drift_look_s = look_s, DRIFT_LOOKS * look_s
        self._clock = clock
        self._due: list[Engine] = []
        self._wake = asyncio.Event()
        """Something has become due."""
        self._watched: dict[Engine, Drift] = {}
        self._pauses_s: dict[tuple[str, str], float] = {}
        """By model and version: how long after its last measurement it is not measured again."""
        self._measured: Engine | None = None
        self._trial: asyncio.Task[Finding] | None = None
        self._running: asyncio.Task[None] | None = None
        self._stopped = False
        self._told_postponed: Engine | None = None
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0

    # -- what the registry tells --------------------------------------------------------------------------------------

    def notice(self, engine: Engine) -> None:
        """An engine is in service now."""
        if engine.tuning is None or not engine.plan.is_measured or self._stopped:
            return
        if engine.tuning.state == "waiting":
            self._add(engine)
        else:
            self._watch(engine)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())

    def drop(self, engine: Engine) -> None:
        """An engine is in service no more."""
        self._watched.pop(engine, None)
        if self._told_postponed is engine:
            self._told_postponed = None
        if engine in self._due:
            self._due.remove(engine)
        if self._measured is engine:
            self._measured = None
            if self._trial is not None:
                self._trial.cancel()

    def stop(self) -> None:
        """Measure nothing any more."""
        # Once only: another cancellation would disturb the first one's clearing up.
        if self._running is not None and not self._stopped:
            self._running.cancel()
        self._stopped = True

    async def close(self) -> None:
        """`stop`, and wait until no process of it is left."""
        self.stop()
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    def _add(self, engine: Engine) -> None:
        self._due.append(engine)
        self._wake.set()

    def _watch(self, engine: Engine) -> None:
        pause_s = self._pauses_s.get((engine.name, engine.version), FIRST_DRIFT_PAUSE_S)
        self._watched[engine] = Drift(engine.latency, self._clock(), pause_s)

    # -- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        looked_at = self._clock()
        while True:
            await self._until_next_look()
            try:
                now = self._clock()
                if now - looked_at >= self._drift_look_s:
                    looked_at = now
                    self._look_for_drift(now)
                if self._due:
                    await self._next(now)
            except Exception:  # a loop that ended unseen would leave models waiting for ever
                log.exception("measuring of instances and threads failed")
                if self._measured is not None:
                    self._measured.tuning = Tuning("settled", reason="measuring failed; the log says why")
            finally:
                self._measured = None

    async def _until_next_look(self) -> None:
        if self._due:
            await asyncio.sleep(self._look_s)
            return
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drift_look_s):
                await self._wake.wait()

    def _look_for_drift(self, now: float) -> None:
        for engine, drift in self._watched.items():
            if engine in self._due or not drift.look(engine.latency, now):
                continue
            key = (engine.name, engine.version)
            self._pauses_s[key] = min(LONGEST_DRIFT_PAUSE_S, 2 * self._pauses_s.get(key, FIRST_DRIFT_PAUSE_S))
            log.info(
                "model %s: its costs are not those that were measured any more; its size is measured anew when idle",
                engine.name,
                extra=fields(model=engine.name),
            )
            self._add(engine)

    async def _next(self, now: float) -> None:
        engine = self._due[0]
        share = self._demand.look(self._engines(), engine.plan.usable_cores)
        if engine.state != "ready":
            self._due.append(self._due.pop(0))
        elif share is None or self._is_loading() or now < self._not_before:
            return
        elif share < IDLE_SHARE:
            self._measured = self._due.pop(0)
            await self._measure(engine)
        elif self._told_postponed is not engine:
            self._told_postponed = engine
            log.info(
                "model %s: instances and threads are measured once requests leave the machine idle; %.0f %% is in use",
                *(engine.name, 100 * share),
                extra=fields(model=engine.name),
            )

    async def _measure(self, engine: Engine) -> None:
        free_bytes = await self._free_bytes() if self._free_bytes is not None else None
        order = await asyncio.to_thread(order_for, engine, free_bytes)
        if self._measured is not engine:
            return  # it is in service no more
        if isinstance(order, str):
            self._keep(engine, {}, f"nothing is measured: {order}")
            return
        if engine.costs is not None and engine.latency.observations:
            engine.costs.save(engine.latency)  # candidates begin with what is known
        chosen = engine.tuning.chosen if engine.tuning is not None else ""
        engine.tuning = Tuning("measuring", chosen)
        log.info(
            "model %s: measuring how many instances and threads serve it best, at most %g s, on %s",
            engine.name,
            BUDGET_S,
            "inputs of its last requests" if order.on_live_inputs else "examples or made-up inputs",
            extra=fields(model=engine.name),
        )
        self._trial = asyncio.ensure_future(self._run_trial(order, lambda rates: _tell(engine, rates)))
        found = await self._watched_trial(engine, self._trial)
        if self._measured is not engine:
            return
        if found is None:
            engine.tuning = Tuning("waiting", chosen, reason="put off, requests came")
            self._add(engine)
            return
        self._pause_s = FIRST_PAUSE_S
        await self._take(engine, order, found)

    async def _watched_trial(self, engine: Engine, trial: asyncio.Task[Finding]) -> Finding | None:
        """What the trial finds; None where it was given up, since requests came or the engine went."""
        share = 0.0
        try:
            while share <= BUSY_SHARE:
                done, _ = await asyncio.wait([trial], timeout=self._look_s)
                if done:
                    return None if trial.cancelled() else trial.result()
                share = self._demand.look(self._engines(), engine.plan.usable_cores) or 0.0
        finally:
            self._trial = None
            if not trial.done():
                trial.cancel()
                await asyncio.wait([trial])
        self._not_before = self._clock() + self._pause_s
        log.info(
            "model %s: measuring is put off for %g s at least, requests take %.0f %% of the machine",
            *(engine.name, self._pause_s, 100 * share),
            extra=fields(model=engine.name),
        )
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        return None

    async def _take(self, engine: Engine, order: Order, found: Finding) -> None:
        """Serve with what was found, and remember it."""
        if not found.rates:
            self._keep(engine, {}, found.reason)
            return
        if found.chosen != order.usual:
            try:
                await self._swap(engine, found)
            except ForebayError as error:
                self._keep(engine, found.rates, f"{found.chosen} was best but did not start: {error.message}")
                return
        else:
            engine.plan.found = found
            engine.tuning = tuning_of(found)
            self._watch(engine)
        if engine.choices is not None:
            # Not in a thread: the engine that has gone writes to the same file.
            engine.choices.save(found)
        log.info(
            "model %s: %s of %s serve%s it best%s",
            engine.name,
            _counted(found.chosen.instances, "instance"),
            _counted(found.chosen.threads, "thread"),
            "s" if found.chosen.instances == 1 else "",
            f" ({found.reason})" if found.reason else "",
            extra=fields(model=engine.name, instances=found.chosen.instances),
        )

    def _keep(self, engine: Engine, rates: Mapping[Size, float], reason: str) -> None:
        """What serves goes on serving; it is not remembered, so that the next start tries again."""
        log.info(
            "model %s: instances and threads stay as they are: %s", engine.name, reason, extra=fields(model=engine.name)
        )
        engine.tuning = tuning_of(Finding(Size(engine.instances, engine.plan.threads), dict(rates), reason))
        self._watch(engine)


def _tell(engine: Engine, rates: Mapping[Size, float]) -> None:
    """Progress, a line a round."""
    shown = {str(size): rate for size, rate in sorted(rates.items())}
    if engine.tuning is not None:
        engine.tuning.rows_per_s.update(shown)
    line = ", ".join(f"{size} {rate:,.0f}" for size, rate in shown.items())
    log.info("model %s: rows/s by instances x threads: %s", engine.name, line, extra=fields(model=engine.name))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
