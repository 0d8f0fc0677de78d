"""`Outbox`: what is to be sent to a store, in order: what comes while a call is under way goes together with the next.

No timer: a lone item is sent at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """`send` gets a portion and never raises; `size_of` tells the bytes of an item."""

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        size_of: Callable[[T], int],
        *,
        most: int = 128,
        most_bytes: int = 4 << 20,
    ) -> None:
        """`most`, `most_bytes`: of one portion; one item may be larger."""
        self._send = send
        self._size_of = size_of
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[T] = deque()
        self._sending: asyncio.Task[None] | None = None

    def put(self, item: T) -> None:
        """Send it."""
        self._waiting.append(item)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._run())

    def __len__(self) -> int:
        """Items that are not under way yet."""
        return len(self._waiting)

    async def empty(self) -> None:
        """Wait until all is sent."""
        while self._sending is not None:
            await asyncio.wait([self._sending])

    async def close(self) -> None:
        """Send nothing more."""
        self._waiting.clear()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._send(self._portion())
        finally:
            self._sending = None

    def _portion(self) -> list[T]:
        portion: list[T] = []
        nbytes = 0
        while self._waiting and len(portion) < self._most:
            nbytes += self._size_of(self._waiting[0])
            if portion and nbytes > self._most_bytes:
                break
            portion.append(self._waiting.popleft())
        return portion
