"""Both clients behind one interface, so that each promise is tested on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx

import forebay
from forebay.client import Result

Handler = Callable[[httpx.Request], httpx.Response]
KINDS = ("sync", "async")


class Both:
    """A client of either kind, used from a coroutine: the blocking one runs in a thread."""

    def __init__(self, kind: str, url: str = "http://server", handler: Handler | None = None, **options: Any) -> None:
        transport = None if handler is None else httpx.MockTransport(handler)
        self.client: Any
        if kind == "async":
            self.client = forebay.AsyncClient(url, transport=transport, **options)
        else:
            self.client = forebay.Client(url, transport=transport, **options)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.client, name)
        if isinstance(self.client, forebay.AsyncClient):
            return await method(*args, **options)
        return await asyncio.to_thread(method, *args, **options)

    async def infer(self, *args: Any, **options: Any) -> Result:
        result: Result = await self.call("infer", *args, **options)
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.call("close")
