"""The client for asyncio. It sends and sleeps; everything else is in `calls.py`."""

from __future__ import annotations

import asyncio
import math
import random
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from forebay.client.calls import Calls
from forebay.client.connections import DEFAULT_MAX_CONNECTIONS, failure_of, late, request_arguments, settings
from forebay.client.options import ClientOptions, InferOptions
from forebay.client.results import Result
from forebay.client.steps import Failure, Reply, Send, Steps

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same calls and errors, awaited. One client serves any number of calls of its loop.

    async with forebay.AsyncClient("http://127.0.0.1:8000") as client:
        y = (await client.infer("mlp", {"x": array}))["y"]

    A cancelled call closes its connection, so that the server drops the request.
    """

    def __init__(
        self, url: str, *, transport: httpx.AsyncBaseTransport | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        """url: where the server is, with the prefix of its paths if it has one. transport: httpx's own, for tests and
        proxies. options: `forebay.client.options.ClientOptions`. Raises `SetupError` for options that cannot be.
        """
        self._options = options
        self._clock = time.monotonic
        self._calls = Calls(options, clock=self._clock, chance=random.Random().random, today=lambda: datetime.now(UTC))
        # One slot a connection: calls that wait inside httpx's pool cost it time by the square of their number.
        self._slots = asyncio.Semaphore(options.get("max_connections", DEFAULT_MAX_CONNECTIONS))
        self._http = httpx.AsyncClient(transport=transport, **settings(url, options))

    async def infer(self, model: str, inputs: Any, **options: Unpack[InferOptions]) -> Result:
        """Runs the model on some rows.

        inputs: {name: value}, or the value alone for a model of one input. A value is an array of the input's shape,
        the batch axis included; or lists, a number, text or bytes, which take the datatype that the model names.
        options: `forebay.client.options.InferOptions`.
        """
        return await self._run(self._calls.infer(model, inputs, options))

    async def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """The protocol's metadata of a model, or of the server."""
        if model is None:
            return await self._run(self._calls.document("/v2"))
        return await self._run(self._calls.model_document(model, version, ""))

    async def config(self, model: str, version: str | None = None) -> dict[str, Any]:
        """A model's configuration, in Triton's form (an extension: not every server has it)."""
        return await self._run(self._calls.model_document(model, version, "/config"))

    async def statistics(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """Statistics of one model or of all (an extension)."""
        if model is None:
            return await self._run(self._calls.document("/v2/models/stats"))
        return await self._run(self._calls.model_document(model, version, "/stats"))

    async def live(self) -> bool:
        """Whether the server answers now."""
        return await self._run(self._calls.healthy("live", None, None))

    async def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or a model, takes requests now."""
        return await self._run(self._calls.healthy("ready", model, version))

    async def wait_until_ready(
        self, model: str | None = None, version: str | None = None, *, timeout_s: float | None = 60.0
    ) -> None:
        """Waits until the server, or a model, takes requests. Raises `DeadlineExceeded` after so many seconds."""
        await self._run(self._calls.wait_until_ready(model, version, timeout_s))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._http.base_url)!r})"

    async def _run(self, steps: Steps[T]) -> T:
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Send):
                outcome = await self._send(step)
            else:
                await asyncio.sleep(step.seconds)
                outcome = None

    async def _send(self, step: Send) -> Reply | Failure:
        left_s = None if step.deadline == math.inf else step.deadline - self._clock()
        try:
            async with asyncio.timeout(left_s), self._slots:
                request = self._http.build_request(**request_arguments(step, self._options, self._clock))
                response = await self._http.send(request, stream=True)
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
        except TimeoutError:
            return late(step)
        except httpx.RequestError as error:
            return failure_of(error, step, self._clock)
        return Reply(response.status_code, response.headers, body)
