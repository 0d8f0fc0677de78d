"""Who waits for jobs: one subscription to all changes in a process, shared by every poll and stream.

A change may be lost, so those who wait are also looked up: when they begin, whenever changes may have been lost, and
every few seconds, all in few reads. Waiting costs an entry in a table; no task, no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Coroutine, Iterable
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol

from forebay.core.errors import DependencyError
from forebay.jobs.record import TERMINAL, JobRecord, State
from forebay.jobs.store import JobReader, Look
from forebay.telemetry.logs import fields

LOOK_EVERY_S = 5.0
"""How often who waits is looked up, where the store can keep up with `MOST_LOOKS_PER_S`."""
MOST_LOOKS_PER_S = 1000
MOST_AT_ONCE = 256
"""Records in one read."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0

log = logging.getLogger("forebay.api")

Seen = State | Literal["gone", "unknown"]
"""A job's state; gone: past its retention; unknown: there is none, or it was deleted."""
ENDED = TERMINAL | {"gone", "unknown"}
"""What is seen of a job that will not change any more."""


_Asked = list[tuple[str, asyncio.Future[Look]]]


class Watcher(Protocol):
    """Who waits for a job. Neither call may block."""

    def told(self, id: str, sequence: int, seen: Seen) -> None:
        """How far job `id` is. Called again for what is known already, and perhaps out of order."""
        ...

    def failed(self, id: str, error: DependencyError) -> None:
        """Nothing more will be told of it: the hub has closed or broken down."""
        ...


class Hub:
    """All who wait in one process. It begins with the first of them, on the running event loop."""

    def __init__(self, reader: JobReader, *, look_every_s: float = LOOK_EVERY_S) -> None:
        """`look_every_s`: longest time for which a lost change goes unnoticed."""
        self.reader = reader
        self._look_every_s = look_every_s
        self._watchers: dict[str, list[Watcher]] = {}
        self._fresh: dict[str, None] = {}
        """To be looked up at once, in this order."""
        self._round: list[str] = []
        """To be looked up before the next round begins."""
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._asked: _Asked = []
        self._reads: set[asyncio.Task[None]] = set()
        self._draining = self._closed = False

    def __len__(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._watchers)

    def subscribe(self, id: str, watcher: Watcher) -> None:
        """Tell `watcher` of a job from now on, first of how far it is now. Raises `DependencyError` once closed."""
        if self._closed:
            raise _closing()
        self._watchers.setdefault(id, []).append(watcher)
        self._look_up((id,))
        if not self._running:
            self._start(self._listen())
            self._start(self._look())

    def unsubscribe(self, id: str, watcher: Watcher) -> None:
        """Tell it no more. Nothing happens where it is not told anyway."""
        watchers = self._watchers.get(id, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(id, None)

    async def until_final(self, id: str, timeout_s: float) -> Look:
        """The record, with its output, as soon as the job is finished, or as it is after `timeout_s` or when the server
        begins to end.

        Raises `DependencyError` where the store cannot be read.
        """
        if self._draining:
            return await self.read(id)
        loop = asyncio.get_running_loop()
        poll = _Poll(loop.create_future())
        self.subscribe(id, poll)
        timer = loop.call_later(timeout_s, poll.end)
        try:
            await poll.ended
        finally:
            timer.cancel()
            self.unsubscribe(id, poll)
        return await self.read(id)

    async def read(self, id: str) -> Look:
        """The record with its output. Those asked for in one turn of the loop are read together.

        Raises `DependencyError`.
        """
        if self._closed:
            raise _closing()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Look] = loop.create_future()
        self._asked.append((id, found))
        if len(self._asked) == 1:
            loop.call_soon(self._read_asked)
        return await found

    def drain(self) -> None:
        """The server begins to end: a poll would hold it up to its last moment, and then have no answer."""
        self._draining = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                if isinstance(watcher, _Poll):
                    watcher.end()

    async def close(self) -> None:
        """Whoever still waits gets an error."""
        self._closed = True
        self._read_asked()
        ending = [*self._running, *self._reads]
        for one in ending:
            one.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._fail_all(_closing())

    # -- what has changed ---------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """The one subscription, begun again whenever it ends. After that everybody is looked up: changes were lost."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                async for changes in self.reader.changes():
                    retry_s = FIRST_RETRY_S
                    for change in changes:
                        if change.id in self._watchers:
                            self._tell(change.id, change.sequence, change.state)
                    if not changes:
                        self._look_up(self._watchers)
            except DependencyError as error:
                log.warning("no changes of jobs are heard: %s", error.message, extra=fields(code=error.code))
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            self._look_up(self._watchers)

    def _look_up(self, ids: Iterable[str]) -> None:
        self._fresh.update(dict.fromkeys(ids))
        self._wake.set()

    async def _look(self) -> None:
        """Looks up who is new, and everybody in turn."""
        retry_s = FIRST_RETRY_S
        while True:
            ids = await self._due()
            try:
                looks = await self.reader.read(ids, output=False)
            except DependencyError as error:
                log.warning("jobs cannot be looked up: %s", error.message, extra=fields(code=error.code))
                self._look_up(ids)
                await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            for id, look in zip(ids, looks, strict=True):
                if isinstance(look, JobRecord):
                    self._tell(id, look.sequence, look.state)
                else:
                    self._tell(id, 0, "gone" if look is not None else "unknown")

    async def _due(self) -> list[str]:
        """The next to be looked up, one at least. Rounds are spread over `look_every_s`: no read is large, and none
        is made where nobody waits."""
        while True:
            if not self._fresh:
                self._wake.clear()
                # Small rounds are taken at once, large ones in a slice every second at most.
                pace_s = min(1.0, self._look_every_s) if len(self._watchers) > MOST_AT_ONCE else self._look_every_s
                try:
                    async with asyncio.timeout(pace_s if self._watchers else None):
                        await self._wake.wait()
                except TimeoutError:
                    self._next_slice(pace_s)
            ids = list(islice(self._fresh, MOST_AT_ONCE))
            for id in ids:
                del self._fresh[id]
            if ids := [id for id in ids if id in self._watchers]:
                return ids

    def _next_slice(self, pace_s: float) -> None:
        if not self._round:
            self._round = list(self._watchers)
        share = min(math.ceil(len(self._watchers) * pace_s / self._look_every_s), math.ceil(MOST_LOOKS_PER_S * pace_s))
        self._look_up(self._round[-share:] if share else ())
        del self._round[-share:]

    def _tell(self, id: str, sequence: int, seen: Seen) -> None:
        for watcher in tuple(self._watchers.get(id, ())):
            try:
                watcher.told(id, sequence, seen)
            except Exception as error:
                log.error("one who waits for a job failed", exc_info=error)
                self.unsubscribe(id, watcher)
                watcher.failed(id, DependencyError("the job can be waited for no more; ask again", public=True))

    # -- whole records ------------------------------------------------------------------------------------------------

    def _read_asked(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), MOST_AT_ONCE):
            part = asked[start : start + MOST_AT_ONCE]
            reading = asyncio.get_running_loop().create_task(self._read(part))
            self._reads.add(reading)
            reading.add_done_callback(self._reads.discard)
            reading.add_done_callback(partial(_fail_unread, part))

    async def _read(self, asked: _Asked) -> None:
        ids = list(dict.fromkeys(id for id, _ in asked))
        looks = dict(zip(ids, await self.reader.read(ids), strict=True))
        for id, found in asked:
            if not found.done():
                found.set_result(looks[id])

    # -- the end ------------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._running.add(running)
        running.add_done_callback(self._ended)

    def _ended(self, ended: asyncio.Task[None]) -> None:
        """Neither of the two ends by itself: it was closed, or has failed. Then nobody is left waiting, and who comes
        next starts both anew."""
        failure = None if ended.cancelled() else ended.exception()
        if ended not in self._running:
            return
        for other in self._running - {ended}:
            other.cancel()
        self._running.clear()
        if self._closed:
            return
        log.error("waiting for jobs has failed, and begins again", exc_info=failure, extra=fields(code="internal"))
        self._fail_all(DependencyError("waiting for jobs has failed; try again", public=True))

    def _fail_all(self, error: DependencyError) -> None:
        watchers, self._watchers = self._watchers, {}
        self._fresh.clear()
        self._round.clear()
        for id, waiting in watchers.items():
            for watcher in waiting:
                watcher.failed(id, error)


class _Poll:
    """One who waits for the end of a job."""

    __slots__ = ("ended",)

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self.ended = ended

    def told(self, id: str, sequence: int, seen: Seen) -> None:
        if seen in ENDED:
            self.end()

    def failed(self, id: str, error: DependencyError) -> None:
        if not self.ended.done():
            self.ended.set_exception(_of_one(error))

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _fail_unread(asked: _Asked, reading: asyncio.Task[None]) -> None:
    error = None if reading.cancelled() else reading.exception()
    for _, found in asked:
        if not found.done():
            found.set_exception(_closing() if error is None else _of_one(error))


def _of_one(error: BaseException) -> BaseException:
    """An error for each who waits: one that many raised would keep all of their frames."""
    return error.anew() if isinstance(error, DependencyError) else error


def _closing() -> DependencyError:
    return DependencyError("the server is shutting down", public=True)
