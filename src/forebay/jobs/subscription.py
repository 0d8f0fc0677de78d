"""`Subscription`: changes of jobs for one reader of `JobReader.changes`, in every store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence

from forebay.jobs.record import STATE_NAMES, State
from forebay.jobs.store import Change

CHANGES_KEPT = 65_536


class Subscription(AsyncIterator[Sequence[Change]]):
    """Changes to `states` for one reader, who may be slow: of more than `most` unread ones none is kept, and that is
    told.

    `stands`: it hears everything from now on, which the reader is told first of all; else `lose` tells it later.
    """

    def __init__(
        self, states: Collection[State] = STATE_NAMES, *, most: int = CHANGES_KEPT, stands: bool = True
    ) -> None:
        self.states = frozenset(states)
        self._most = most
        self._unread: deque[Change] = deque()
        self._lost, self._closed = stands, False
        self._news = asyncio.Event()
        if stands:
            self._news.set()

    def add(self, *changes: Change) -> None:
        """Tell the reader of those that it wants to hear of."""
        if self.states != STATE_NAMES:
            changes = tuple(change for change in changes if change.state in self.states)
        if not changes:
            return
        if len(self._unread) + len(changes) > self._most:
            self.lose()
            return
        self._unread.extend(changes)
        self._news.set()

    def lose(self) -> None:
        """Forget what is unread."""
        self._unread.clear()
        self._lost = True
        self._news.set()

    def close(self) -> None:
        """End the iteration, when all is read."""
        self._closed = True
        self._news.set()

    async def __anext__(self) -> Sequence[Change]:
        """What is new since the last call; empty: look again, some may have been lost."""
        await self._news.wait()
        if self._lost:
            self._lost = False
            self._rest()
            return []
        if not self._unread:
            raise StopAsyncIteration
        changes = list(self._unread)
        self._unread.clear()
        self._rest()
        return changes

    def _rest(self) -> None:
        if not (self._unread or self._closed):
            self._news.clear()
