"""The client for asyncio. It sends and sleeps; everything else is in `calls.py`."""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from forebay.client.connections import DEFAULT_MAX_CONNECTIONS, failure_of, late, request_arguments, settings
from forebay.client.job_calls import JobCalls
from forebay.client.jobs import Job, JobEvent, JobOrId
from forebay.client.options import ClientOptions, InferOptions, SubmitOptions
from forebay.client.results import Result
from forebay.client.steps import Failure, Open, Opened, Reply, Send, Sleep, Steps
from forebay.core.errors import ForebayError

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
        self._calls = JobCalls(
            options,
            clock=self._clock,
            chance=random.Random().random,
            today=lambda: datetime.now(UTC),
            new_key=lambda: str(uuid.uuid4()),
        )
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

    async def submit(self, model: str, inputs: Any, **options: Unpack[SubmitOptions]) -> Job:
        """Submits a job: the inputs are those of `infer`, the answer is there later.

        options: `forebay.client.options.SubmitOptions`.
        """
        return await self._run(self._calls.submit(model, inputs, options))

    async def submit_many(
        self, model: str, inputs: Iterable[Any], **options: Unpack[SubmitOptions]
    ) -> list[Job | ForebayError]:
        """Submits a job for each of `inputs`, all with the same options; for each, in their order, its job, or why it
        was refused. Their tensors travel as JSON."""
        return await self._run(self._calls.submit_many(model, inputs, options))

    async def submit_body(
        self,
        model: str,
        body: bytes | str,
        *,
        content_type: str = "application/json",
        idempotency_key: str | None = None,
    ) -> Job:
        """Submits a job whose body is ready: JSON of inference with the options of a job beside its inputs, or an
        image (`image/png`)."""
        return await self._run(self._calls.submit_body(model, body, content_type, idempotency_key))

    async def job(self, job: JobOrId) -> Job:
        """The job as it is now."""
        return await self._run(self._calls.job(job))

    async def wait(self, job: JobOrId, *, timeout_s: float | None = None) -> Result:
        """The result of a job, once it is there; raises the error of a job that has none.

        The server may restart meanwhile. Raises `DeadlineExceeded` after so many seconds (None: however long it
        takes); the job goes on.
        """
        return await self._run(self._calls.wait(job, timeout_s))

    async def ended(self, job: JobOrId, *, timeout_s: float | None = None) -> Job:
        """The job when it has ended, whatever that end is. Waits as `wait` does."""
        return await self._run(self._calls.ended(job, timeout_s))

    async def stream(self, job: JobOrId, *, after: int = 0, timeout_s: float | None = None) -> AsyncIterator[JobEvent]:
        """The events of a job as they come, the last of which is `done`; they go on after a broken connection.

        after: the `sequence` of the last one that is known already. timeout_s: as for `wait`. Close the iterator to
        leave early: it holds a connection.
        """
        steps = self._calls.stream(job, after, timeout_s)
        outcome: Opened | Reply | bytes | Failure | None = None
        async with AsyncExitStack() as held:
            pieces: AsyncIterator[bytes] | None = None
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration:
                    return
                outcome = None
                if isinstance(step, JobEvent):
                    yield step
                elif isinstance(step, Sleep):
                    await held.aclose()
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Open):
                    outcome, pieces = await self._open(step, held)
                else:
                    assert pieces is not None
                    outcome = await self._read(step.opened, pieces)

    async def cancel(self, job: JobOrId) -> Job:
        """Cancels a job, unless it has ended; the job as it is then."""
        return await self._run(self._calls.cancel(job))

    async def replay(self, job: JobOrId) -> Job:
        """Submits a failed job again, as a new one; the same new one however often it is called."""
        return await self._run(self._calls.replay(job))

    async def delete(self, job: JobOrId) -> None:
        """Forgets a job, canceling it first if it has not ended."""
        await self._run(self._calls.delete(job))

    async def jobs(self, *, model: str = "", status: str = "") -> AsyncIterator[Job]:
        """The jobs of this API key, the newest first, without their outputs; of one model or status where that is
        named. Pages are fetched as they are needed."""
        cursor = ""
        while True:
            page, cursor = await self._run(self._calls.page(model, status, cursor))
            for job in page:
                yield job
            if not cursor:
                return

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

    async def _open(
        self, step: Open, held: AsyncExitStack
    ) -> tuple[Opened | Reply | Failure, AsyncIterator[bytes] | None]:
        """What came of it, and the pieces of the answer that is open now, which is closed with `held`."""
        await held.aclose()
        left_s = None if step.deadline == math.inf else step.deadline - self._clock()
        try:
            async with asyncio.timeout(left_s):
                await held.enter_async_context(self._slots)
                request = self._http.build_request(**request_arguments(step, self._options, self._clock))
                response = await self._http.send(request, stream=True)
                held.push_async_callback(response.aclose)
                if response.status_code == 200:
                    return Opened(), response.aiter_bytes()
                return Reply(response.status_code, response.headers, await response.aread()), None
        except TimeoutError:
            return late(step), None
        except httpx.RequestError as error:
            return failure_of(error, step, self._clock), None

    async def _read(self, opened: Open, pieces: AsyncIterator[bytes]) -> bytes | Failure:
        left_s = None if opened.deadline == math.inf else opened.deadline - self._clock()
        try:
            async with asyncio.timeout(left_s):
                return await anext(pieces, b"")
        except TimeoutError:
            return late(opened)
        except httpx.RequestError as error:
            return failure_of(error, opened, self._clock)
