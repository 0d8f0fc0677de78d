"""The process that measures candidates: `python -m forebay.engine.trial FD PARENT`.

It has engines of its own, beside those that serve, and keeps them busy with requests in a closed loop, so that batches
are what the batcher makes of them. It serves nobody, runs at low priority, and ends with whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from forebay.core.errors import ForebayError, SetupError
from forebay.core.request import Request
from forebay.engine import frames, sizing
from forebay.engine.child import die_with_parent
from forebay.engine.engine import Engine
from forebay.engine.flight import Flight, nobody
from forebay.engine.instance import Instance
from forebay.engine.kept_inputs import KeptRequest, kept_of
from forebay.engine.mix import Ended, Mix
from forebay.engine.setup import Plan, start_engine
from forebay.engine.sizing import Finding, Size, TrialError
from forebay.engine.trial_frames import FOUND, MEASURED, TRY, Found, Measured, Order

NICENESS = 5
"""Requests that are served meanwhile come first."""
CALLERS = 64
"""Requests that are kept waiting, for each candidate alike; more where there are more cores than that can feed."""
CALLERS_A_CORE = 4
TURNS = 8
"""Callers that are answered together send again in so many turns of the loop."""
HTTP_S = 12e-6
HTTP_BYTE_S = 1e-9
"""What a request costs the web process beside the engine, and each byte of it: head, body, socket. Spent by waiting, so
that a light model is not given instances that would only take the web process's cores."""
SLICE_S = 0.25
"""Time counted for one figure, where the model is fast."""
LONGEST_SLICE_S = 3.0
WARM_S = 0.05
ENOUGH_BATCHES = 6
"""Batches of each instance in one figure; in a slice of the longest time the fewest will do."""
FEWEST_BATCHES = 2
"""And of each size of requests in one figure, but for a slice of the longest time."""
LOOK_S = 0.02
WARM_UP_MOST_S = 1.0
SHOWN_MOST, SHOWN_BYTES = 48, 4 << 20
FAR_AWAY_S = 1e6
"""Nobody waits for these requests: no deadline is to shape a batch."""


class MeasuredEngine(Engine):
    """An engine that notes when each of its instances has ended a batch, and may leave some of them idle."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.mix = Mix([])
        self.ends: dict[int, list[Ended]] = {}

    def _land(self, instance: Instance, batch_id: int, now: float, busy_s: float) -> Flight:
        flight = super()._land(instance, batch_id, now, busy_s)
        self.ends.setdefault(instance.number, []).append((now, self.mix.counted(flight.batch.items)))
        return flight

    def use(self, instances: int) -> None:
        """Batches go to so many instances, from the first. Call it while none runs."""
        now = self._clock()
        for number in self.supervisor.instances:
            self._batcher.remove_instance(number, now)
        for number in sorted(self.supervisor.instances)[:instances]:
            self._batcher.add_instance(number, now)

    @property
    def at_rest(self) -> bool:
        """Whether nothing runs."""
        return not any(instance.flights for instance in self.supervisor.instances.values())


class Load:
    """Callers in a closed loop: each sends its next request when the last one is answered."""

    def __init__(self, engine: Engine, inputs: Sequence[KeptRequest], callers: int) -> None:
        self._engine = engine
        self._inputs = inputs
        self._next = 0
        self._waiting: dict[int, Request] = {}
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._ready = callers
        """Callers that have their answer and will send."""
        self._some = max(1, callers // TURNS)
        self.error: ForebayError | None = None
        self._loop.call_soon(self._send_some)

    def _send_some(self) -> None:
        """Not all at once: over HTTP requests arrive a few at a time too, and the engine sends batches in between."""
        if self._stopped or self.error is not None:
            return
        count = min(self._ready, self._some)
        self._ready -= count
        for _ in range(count):
            self._send()
        if self._ready:
            self._loop.call_soon(self._send_some)

    def _send(self) -> None:
        place = self._next
        self._next += 1
        kept = self._inputs[place % len(self._inputs)]
        until = time.perf_counter() + HTTP_S + kept.nbytes * HTTP_BYTE_S
        while time.perf_counter() < until:
            pass
        now = time.monotonic()
        request = Request(
            inputs=list(kept.payloads),
            shapes=tuple(tuple(shape) for shape in kept.shapes),
            rows=kept.rows,
            nbytes=kept.nbytes,
            deadline=now + FAR_AWAY_S,
            arrived=now,
            on_done=lambda answered: self._done(place, answered),
        )
        try:
            self._engine.submit(request)
            self._waiting[place] = request
        except ForebayError as error:
            self.error = error

    def _done(self, place: int, request: Request) -> None:
        self._waiting.pop(place, None)
        self.error = self.error or request.error
        if not self._ready:
            self._loop.call_soon(self._send_some)
        self._ready += 1

    def stop(self) -> None:
        """Nobody waits any more: what is queued is dropped."""
        self._stopped = True
        for request in self._waiting.values():
            if request.on_done is not nobody:
                self._engine.cancel(request)


class Bench:
    """The candidates' processes; see `sizing.World`."""

    def __init__(self, order: Order, end: float) -> None:
        self._order = order
        self._end = end
        self._engines: dict[int, MeasuredEngine] = {}
        self._inputs = order.kept if order.on_live_inputs else []

    async def load(self, size: Size) -> None:
        """See `World.load`."""
        order = self._order
        settings = msgspec.structs.replace(
            order.settings,
            instances=size.instances,
            threads=size.threads,
            warm_up_s=min(order.settings.warm_up_s, WARM_UP_MOST_S),
            max_queue_rows=1_000_000,
            max_queue_bytes=1 << 40,
        )
        plan = Plan(
            order.source,
            settings,
            Path(order.data_dir),
            order.shared_memory_bytes,
            lambda _: settings,
            cores=order.cores,
        )
        engine = MeasuredEngine(plan)
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                await start_engine(engine)
                await self._see_to_inputs(engine)
        except TimeoutError:
            await engine.close(0.0)
            raise TrialError("it was not loaded in time") from None
        except (SetupError, TrialError) as error:
            await engine.close(0.0)
            raise TrialError(error.message if isinstance(error, SetupError) else str(error)) from None
        engine.mix = Mix(self._inputs)
        self._engines[size.threads] = engine

    async def _see_to_inputs(self, engine: Engine) -> None:
        if self._inputs:
            return
        try:
            shown, payload = await engine.supervisor.instances[0].show(SHOWN_MOST, SHOWN_BYTES)
        except ConnectionError as error:
            raise TrialError(str(error)) from None
        self._inputs = kept_of(shown.requests, payload) + self._order.kept
        if not self._inputs:
            raise TrialError(f"there is nothing to measure it with: {shown.reason}")

    async def rate(self, size: Size) -> float:
        """See `World.rate`."""
        engine = self._engines[size.threads]
        engine.use(size.instances)
        engine.ends.clear()
        load = Load(engine, self._inputs, max(CALLERS, CALLERS_A_CORE * self._order.cores))
        rows = sum(kept.rows for kept in self._inputs) / len(self._inputs)
        try:
            return sizing.beside_network(await self._counted(engine, load, size), rows, size, self._order.cores)
        finally:
            load.stop()
            while not engine.at_rest and time.monotonic() < self._end:  # noqa: ASYNC110 - an event would cost each batch
                await asyncio.sleep(LOOK_S / 4)

    async def _counted(self, engine: MeasuredEngine, load: Load, size: Size) -> float:
        began = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            if load.error is not None:
                raise TrialError(load.error.message)
            if engine.metrics.deaths:
                raise TrialError("one of its processes died")
            series = [
                [end for end in ends if end[0] >= began + WARM_S or len(ends) <= ENOUGH_BATCHES]
                for ends in engine.ends.values()
            ]
            fewest = min(map(len, series), default=0) - 1 if len(series) == size.instances else 0
            enough = fewest >= ENOUGH_BATCHES and engine.mix.fewest(series) >= FEWEST_BATCHES
            if now - began >= WARM_S + SLICE_S and enough:
                return engine.mix.rate(series)
            if now - began >= LONGEST_SLICE_S and fewest >= FEWEST_BATCHES:
                return engine.mix.rate(series)
            if now >= self._end:
                raise TrialError("a batch takes too long to be measured in time")

    async def unload(self, threads: int) -> None:
        """See `World.unload`."""
        engine = self._engines.pop(threads, None)
        if engine is not None:
            await engine.close(0.0)

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(engine.close(0.0) for engine in self._engines.values()))


class Trial(asyncio.Protocol):
    """The engine's side speaks first, once: TRY. The process ends when it closes its end."""

    def __init__(self) -> None:
        self._reader = frames.FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._runs: asyncio.Task[None] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is up."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's do not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        """The order."""
        for kind, header, _ in self._reader.feed(data):
            if kind == TRY:
                self._start(self._run(msgspec.msgpack.decode(header, type=Order, dec_hook=_as_path)))

    def _start(self, run: Coroutine[Any, Any, None]) -> None:
        self._runs = asyncio.ensure_future(run)
        self._runs.add_done_callback(self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever started this is gone."""
        self._end()

    def _end(self, _: object = None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    async def _run(self, order: Order) -> None:
        bench = Bench(order, time.monotonic() + order.budget_s)
        try:
            found = await sizing.search(order.groups, order.usual, bench, time.monotonic, bench._end, self._told)
        except Exception as error:  # whatever it is, what serves now goes on
            found = Finding(order.usual, {}, f"measuring failed: {type(error).__name__}: {error}")
        finally:
            await bench.close()
        self._write(FOUND, Found(found.chosen, list(found.rates.items()), found.reason))

    def _told(self, rates: Mapping[Size, float]) -> None:
        self._write(MEASURED, Measured(list(rates.items())))

    def _write(self, kind: int, header: Any) -> None:
        if self._transport is not None:
            self._transport.write(frames.pack(kind, header))


def _as_path(kind: type, value: object) -> Path:
    return Path(str(value))


async def _serve(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    transport, trial = await loop.create_unix_connection(Trial, sock=sock)
    await trial.over
    transport.close()
    await asyncio.sleep(0)


def main() -> None:
    """Entry point of the process."""
    fd, parent = (int(text) for text in sys.argv[1:3])
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # What its engines log of starting and stopping is about no model in service.
    logging.getLogger("forebay").setLevel(logging.CRITICAL + 1)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(socket.socket(fileno=fd)))


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
