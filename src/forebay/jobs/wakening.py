"""`Wakening`: an endless iterator that says each time that there may be something new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Wakening(AsyncIterator[None]):
    """Wakes who iterates it, once for all that came since the last time."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be something new."""
        self._news.set()

    async def __anext__(self) -> None:
        await self._news.wait()
        self._news.clear()
