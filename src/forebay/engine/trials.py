"""The engine's end of a measuring process: start it, hear how far it is, end it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

import msgspec

from forebay.core.processes import signals_blocked
from forebay.engine import frames
from forebay.engine.engine import Engine
from forebay.engine.setup import room_for
from forebay.engine.sizing import BUDGET_S, Finding, Size, candidates
from forebay.engine.trial_frames import FOUND, MEASURED, TRY, Found, Measured, Order

GRACE_S = 4.0
"""So long after its time is up the process may still take to end its own."""


def order_for(engine: Engine, free_bytes: int | None = None) -> Order | str:
    """What is to be measured for an engine in service; why nothing is, where that is so. Reads files.

    free_bytes: what is left of a limit of memory; None: there is no limit.
    """
    plan = engine.plan
    settings = plan.settings
    usual = Size(engine.instances, plan.threads)
    room = room_for(engine, free_bytes)
    groups = candidates(
        plan.usable_cores,
        usual,
        instances=settings.instances if isinstance(settings.instances, int) else None,
        threads=settings.threads if isinstance(settings.threads, int) else None,
        # Two thread counts are loaded at a time, beside what serves.
        most_instances=max(1, room // 2),
    )
    if sum(map(len, groups)) == 1:
        return f"on {plan.usable_cores} cores only {usual} is possible with these settings"
    largest = max(size.instances for size in groups[0])
    groups = [group for group in groups if max(group).instances + largest <= room or group is groups[0]]
    if largest > room or sum(map(len, groups)) == 1:
        return f"there is memory for {room} more instances, measuring takes {2 * largest}"
    return Order(
        source=plan.source,
        settings=msgspec.structs.replace(settings, labels=None),
        data_dir=str(plan.data_dir.resolve()),
        shared_memory_bytes=plan.shared_memory_bytes,
        cores=plan.usable_cores,
        usual=usual,
        groups=groups,
        budget_s=BUDGET_S,
        kept=engine.kept_inputs.all() if engine.kept_inputs is not None else [],
    )


async def run_trial(order: Order, tell: Callable[[Mapping[Size, float]], None]) -> Finding:
    """Measure in a process of its own; it is gone when this returns, or is cancelled.

    tell: hears the rates of each round, in rows a second. Whatever goes wrong, a finding says so and keeps what serves.
    """
    outcome: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
    try:
        process, ours = _spawn()
    except OSError as error:
        return Finding(order.usual, {}, f"no process could be started to measure: {error}")
    transport: asyncio.Transport | None = None
    try:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: _Ear(outcome, tell), sock=ours)
        transport.write(frames.pack(TRY, order))
        async with asyncio.timeout(order.budget_s + GRACE_S):
            return await outcome
    except TimeoutError:
        return Finding(order.usual, {}, f"it could not be measured within {order.budget_s:g} s")
    except ConnectionError as error:
        return Finding(order.usual, {}, f"measuring ended early: {error}")
    finally:
        if transport is not None:
            transport.abort()
        else:
            ours.close()
        process.kill()  # its instances end with it
        await asyncio.shield(asyncio.to_thread(process.wait))


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process, which takes milliseconds; gives our end of its socket too."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [sys.executable, "-m", "forebay.engine.trial", str(theirs.fileno()), str(os.getpid())]
    try:
        with theirs, signals_blocked():
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
    except OSError:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


class _Ear(asyncio.Protocol):
    """Hears the process."""

    def __init__(self, outcome: asyncio.Future[Finding], tell: Callable[[Mapping[Size, float]], None]) -> None:
        self._reader = frames.FrameReader()
        self._outcome = outcome
        self._tell = tell

    def data_received(self, data: bytes) -> None:
        """Progress, or the end."""
        try:
            for kind, header, _ in self._reader.feed(data):
                if kind == MEASURED:
                    self._tell(dict(msgspec.msgpack.decode(header, type=Measured).rates))
                elif kind == FOUND and not self._outcome.done():
                    found = msgspec.msgpack.decode(header, type=Found)
                    self._outcome.set_result(Finding(found.chosen, dict(found.rates), found.reason))
        except (ValueError, msgspec.DecodeError) as error:
            self._end(f"its answer cannot be understood: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended."""
        self._end("the process that measures has died")

    def _end(self, reason: str) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(ConnectionError(reason))
