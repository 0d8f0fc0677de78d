"""A way to a store that can be cut: nothing arrives any more, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.contract.brokers.proxy import Proxy


class Way:
    """A proxy on a thread of its own. See `way`."""

    def __init__(self, path: Path, target: Path) -> None:
        self._proxy = Proxy(path, target)
        self.url = self._proxy.url
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self.listens = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with self._proxy.serving():
            self.listens.set()
            await self._ended.wait()

    def cut(self) -> None:
        """From now on whatever is sent is lost; connections stay, and new ones are accepted."""
        self._loop.call_soon_threadsafe(self._proxy.silence)

    def mend(self) -> None:
        """The old connections break, new ones work."""
        self._loop.call_soon_threadsafe(self._proxy.cut)

    def end(self) -> None:
        """No way any more."""
        self._loop.call_soon_threadsafe(self._ended.set)


@contextlib.contextmanager
def way(path: Path, target: Path) -> Iterator[Way]:
    """From a Unix socket at `path` to the one at `target`."""
    found = Way(path, target)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        assert found.listens.wait(20)
        yield found
    finally:
        found.end()
        thread.join(20)
