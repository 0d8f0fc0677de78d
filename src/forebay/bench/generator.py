"""The two loops: open (arrivals at set instants, whatever the server does) and closed (N clients that wait)."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from forebay.bench.connection import Answer, Connection, open_connection
from forebay.bench.recording import UNANSWERED, Recording

T = TypeVar("T")

Check = Callable[[int, Answer], bool | None]
"""Whether the answer to the request of this place in the pool is right; `None`: not known. Asked only of good ones."""

GiveUp = Callable[[Recording], bool]
"""Whether what was recorded so far is enough to end an open loop before its time. Asked now and then."""

WARM_CONNECTIONS = 32
"""Connections opened before an open loop starts, so that the first burst does not pay for them."""

HIGHEST_CONNECTIONS = 4096
"""An open loop that needs more has met a server that stopped answering: the run ends as void."""


class Requests(Protocol):
    """A pool of whole HTTP requests, prepared before the run; request n of a run is `pool[n % len(pool)]`."""

    def __len__(self) -> int:
        """How many different requests."""

    def __getitem__(self, place: int, /) -> bytes:
        """One request: head and body."""


def run_event_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    result: T = uvloop.run(main)
    return result


async def run_open(
    address: tuple[str, int],
    pool: Requests,
    instants: Sequence[float],
    *,
    check: Check | None = None,
    sample: float = 0.01,
    answer_timeout_s: float = 10.0,
    seed: int = 0,
    give_up: GiveUp | None = None,
) -> Recording:
    """Send one request at each of `instants` (ascending seconds from the start) and record what comes back.

    A request goes out on an idle keep-alive connection, else on a new one; it never waits for an earlier answer.
    `sample` is the share of answers given to `check`. Answers later than `answer_timeout_s` after the last send count
    as unanswered. Timers have a resolution of 1 ms, so a send may be up to 1 ms late, never early. Once `give_up` says
    so nothing more is sent or waited for.
    """
    recording = Recording("open")
    loop = _OpenLoop(address, pool, recording, _Sampler(check, sample, seed))
    await loop.warm(min(WARM_CONNECTIONS, len(instants)))
    try:
        with _quiet_collector(), _own_cpu(recording):
            if await loop.send_all(instants, give_up):
                await loop.wait_for_answers(answer_timeout_s)
    finally:
        loop.close()
    return recording


async def run_closed(
    address: tuple[str, int],
    pool: Requests,
    clients: int,
    seconds: float,
    *,
    check: Check | None = None,
    sample: float = 0.01,
    answer_timeout_s: float = 60.0,
    seed: int = 0,
) -> Recording:
    """`clients` connections, each sending its next request when the answer is there, for `seconds`."""
    recording = Recording("closed")
    loop = _ClosedLoop(address, pool, recording, _Sampler(check, sample, seed), seconds)
    await loop.connect(clients)
    try:
        with _quiet_collector(), _own_cpu(recording):
            await loop.run(answer_timeout_s)
    finally:
        loop.close()
    return recording


class _Sampler:
    """Chooses which answers are checked, and checks them."""

    def __init__(self, check: Check | None, share: float, seed: int) -> None:
        self._check = check
        self._share = share
        self._random = random.Random(seed)

    def look(self, recording: Recording, number: int, place: int, answer: Answer) -> None:
        if self._check is None or not 200 <= answer.status < 300 or self._random.random() >= self._share:
            return
        right = self._check(place, answer)
        if right is not None:
            recording.check(number, right)


class _OpenLoop:
    def __init__(self, address: tuple[str, int], pool: Requests, recording: Recording, sampler: _Sampler) -> None:
        self._address = address
        self._pool = pool
        self._recording = recording
        self._sampler = sampler
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._open_requests = 0
        self._sending = True
        self._ended = asyncio.Event()
        self._start = 0.0

    async def warm(self, count: int) -> None:
        self._idle = list(await asyncio.gather(*(open_connection(*self._address) for _ in range(count))))
        self._all = set(self._idle)
        self._recording.connections = count

    async def send_all(self, instants: Sequence[float], give_up: GiveUp | None) -> bool:
        """Whether all was sent, as far as it could be."""
        self._start = time.perf_counter()
        for place, instant in enumerate(instants):
            wait_s = instant - (time.perf_counter() - self._start)
            if wait_s > 0:
                # Rounded up to the timer's millisecond: a little late, never early.
                await asyncio.sleep(math.ceil(wait_s * 1e3) / 1e3)
            elif place % 16 == 0:
                await asyncio.sleep(0)  # behind: still read answers now and then
            if self._recording.failure:
                return True
            if give_up is not None and place % 16 == 0 and give_up(self._recording):
                return False
            self._send(place, float(instant))
        return True

    def _send(self, place: int, intended: float) -> None:
        number = self._recording.add(intended, self._now())
        self._open_requests += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._write(connection, number)
                return
            self._all.discard(connection)
        if len(self._all) + len(self._opening) >= HIGHEST_CONNECTIONS:
            self._recording.failure = (
                f"more than {HIGHEST_CONNECTIONS} connections were needed: the server stopped answering"
            )
            return
        opening = asyncio.get_running_loop().create_task(self._open_and_write(number))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open_and_write(self, number: int) -> None:
        try:
            connection = await open_connection(*self._address)
        except OSError:
            self._less_open()
            self._recording.finish(number, self._now(), UNANSWERED)
            return
        self._all.add(connection)
        self._recording.connections += 1
        self._write(connection, number)

    def _write(self, connection: Connection, number: int) -> None:
        connection.sequence = number
        connection.send(self._pool[number % len(self._pool)], self._answered)

    def _answered(self, connection: Connection, answer: Answer | None) -> None:
        self._less_open()
        number = connection.sequence
        self._recording.finish(number, self._now(), UNANSWERED if answer is None else answer.status)
        if answer is not None:
            self._sampler.look(self._recording, number, number % len(self._pool), answer)
        if connection.usable:
            self._idle.append(connection)
        else:
            self._all.discard(connection)

    async def wait_for_answers(self, timeout_s: float) -> None:
        self._sending = False
        if self._open_requests == 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            pass  # what has no answer by now stays unanswered in the recording

    def _less_open(self) -> None:
        self._open_requests -= 1
        if self._open_requests == 0 and not self._sending:
            self._ended.set()

    def close(self) -> None:
        for opening in self._opening:
            opening.cancel()
        for connection in list(self._all):
            connection.close()

    def _now(self) -> float:
        return time.perf_counter() - self._start


class _ClosedLoop:
    def __init__(
        self, address: tuple[str, int], pool: Requests, recording: Recording, sampler: _Sampler, seconds: float
    ) -> None:
        self._address = address
        self._pool = pool
        self._recording = recording
        self._sampler = sampler
        self._seconds = seconds
        self._connections: list[Connection] = []
        self._busy = 0
        self._start = 0.0
        self._ended = asyncio.Event()
        self._reopening: set[asyncio.Task[None]] = set()

    async def connect(self, clients: int) -> None:
        self._connections = list(await asyncio.gather(*(open_connection(*self._address) for _ in range(clients))))
        self._recording.connections = clients

    async def run(self, answer_timeout_s: float) -> None:
        self._start = time.perf_counter()
        for connection in list(self._connections):
            self._next(connection)
        try:
            async with asyncio.timeout(self._seconds + answer_timeout_s):
                await self._ended.wait()
        except TimeoutError:
            pass  # what has no answer by now stays unanswered in the recording

    def _next(self, connection: Connection) -> None:
        now = time.perf_counter() - self._start
        number = self._recording.add(now, now)
        connection.sequence = number
        self._busy += 1
        connection.send(self._pool[number % len(self._pool)], self._answered)

    def _answered(self, connection: Connection, answer: Answer | None) -> None:
        now = time.perf_counter() - self._start
        number = connection.sequence
        self._busy -= 1
        self._recording.finish(number, now, UNANSWERED if answer is None else answer.status)
        if answer is not None:
            self._sampler.look(self._recording, number, number % len(self._pool), answer)
        if now < self._seconds:
            if connection.usable:
                self._next(connection)
                return
            reopening = asyncio.get_running_loop().create_task(self._reopen(connection))
            self._reopening.add(reopening)
            reopening.add_done_callback(self._reopening.discard)
        elif self._busy == 0:
            self._ended.set()

    async def _reopen(self, broken: Connection) -> None:
        self._connections.remove(broken)
        try:
            connection = await open_connection(*self._address)
        except OSError as error:
            if self._ended.is_set():
                return  # the run is over, and perhaps the server too
            self._recording.failure = f"a client could not connect again: {error}"
            if self._busy == 0:
                self._ended.set()
            return
        self._connections.append(connection)
        self._recording.connections += 1
        self._next(connection)

    def close(self) -> None:
        for reopening in self._reopening:
            reopening.cancel()
        for connection in list(self._connections):
            connection.close()


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection during the timed run: a full one over a large pool takes tens of milliseconds."""
    gc.collect()
    gc.freeze()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        gc.unfreeze()


@contextmanager
def _own_cpu(recording: Recording) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        recording.cpu_share = (time.process_time() - cpu) / max(time.perf_counter() - wall, 1e-9)
