"""The blocking client. It sends and sleeps; everything else is in `calls.py`."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from forebay.client.connections import failure_of, late, request_arguments, settings
from forebay.client.job_calls import JobCalls
from forebay.client.jobs import Job, JobEvent, JobOrId
from forebay.client.options import ClientOptions, InferOptions, SubmitOptions
from forebay.client.results import Result
from forebay.client.steps import Failure, Open, Opened, Reply, Send, Sleep, Steps
from forebay.core.errors import ForebayError

T = TypeVar("T")


class Client:
    """A server of the Open Inference Protocol v2 over HTTP. One client may serve many threads; close it in the end.

    with forebay.Client("http://127.0.0.1:8000") as client:
        y = client.infer("mlp", {"x": array})["y"]

    Every call may raise a `ForebayError`: what the server answered, by its `code`; `UnreachableError` where no answer
    came; `DeadlineExceeded` where its time was over; `InvalidAnswerError` for an answer in no form of the protocol.
    """

    def __init__(
        self, url: str, *, transport: httpx.BaseTransport | None = None, **options: Unpack[ClientOptions]
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
        self._http = httpx.Client(transport=transport, **settings(url, options))

    def infer(self, model: str, inputs: Any, **options: Unpack[InferOptions]) -> Result:
        """Runs the model on some rows.

        inputs: {name: value}, or the value alone for a model of one input. A value is an array of the input's shape,
        the batch axis included; or lists, a number, text or bytes, which take the datatype that the model names.
        options: `forebay.client.options.InferOptions`.
        """
        return self._run(self._calls.infer(model, inputs, options))

    def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """The protocol's metadata of a model, or of the server."""
        if model is None:
            return self._run(self._calls.document("/v2"))
        return self._run(self._calls.model_document(model, version, ""))

    def config(self, model: str, version: str | None = None) -> dict[str, Any]:
        """A model's configuration, in Triton's form (an extension: not every server has it)."""
        return self._run(self._calls.model_document(model, version, "/config"))

    def statistics(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """Statistics of one model or of all (an extension)."""
        if model is None:
            return self._run(self._calls.document("/v2/models/stats"))
        return self._run(self._calls.model_document(model, version, "/stats"))

    def live(self) -> bool:
        """Whether the server answers now."""
        return self._run(self._calls.healthy("live", None, None))

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or a model, takes requests now."""
        return self._run(self._calls.healthy("ready", model, version))

    def wait_until_ready(
        self, model: str | None = None, version: str | None = None, *, timeout_s: float | None = 60.0
    ) -> None:
        """Waits until the server, or a model, takes requests. Raises `DeadlineExceeded` after so many seconds."""
        self._run(self._calls.wait_until_ready(model, version, timeout_s))

    def submit(self, model: str, inputs: Any, **options: Unpack[SubmitOptions]) -> Job:
        """Submits a job: the inputs are those of `infer`, the answer is there later.

        options: `forebay.client.options.SubmitOptions`.
        """
        return self._run(self._calls.submit(model, inputs, options))

    def submit_many(
        self, model: str, inputs: Iterable[Any], **options: Unpack[SubmitOptions]
    ) -> list[Job | ForebayError]:
        """Submits a job for each of `inputs`, all with the same options; for each, in their order, its job, or why it
        was refused. Their tensors travel as JSON."""
        return self._run(self._calls.submit_many(model, inputs, options))

    def submit_body(
        self,
        model: str,
        body: bytes | str,
        *,
        content_type: str = "application/json",
        idempotency_key: str | None = None,
    ) -> Job:
        """Submits a job whose body is ready: JSON of inference with the options of a job beside its inputs, or an
        image (`image/png`)."""
        return self._run(self._calls.submit_body(model, body, content_type, idempotency_key))

    def job(self, job: JobOrId) -> Job:
        """The job as it is now."""
        return self._run(self._calls.job(job))

    def wait(self, job: JobOrId, *, timeout_s: float | None = None) -> Result:
        """The result of a job, once it is there; raises the error of a job that has none.

        The server may restart meanwhile. Raises `DeadlineExceeded` after so many seconds (None: however long it
        takes); the job goes on.
        """
        return self._run(self._calls.wait(job, timeout_s))

    def ended(self, job: JobOrId, *, timeout_s: float | None = None) -> Job:
        """The job when it has ended, whatever that end is. Waits as `wait` does."""
        return self._run(self._calls.ended(job, timeout_s))

    def stream(self, job: JobOrId, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """The events of a job as they come, the last of which is `done`; they go on after a broken connection.

        after: the `sequence` of the last one that is known already. timeout_s: as for `wait`. Close the iterator to
        leave early: it holds a connection.
        """
        steps = self._calls.stream(job, after, timeout_s)
        outcome: Opened | Reply | bytes | Failure | None = None
        with ExitStack() as held:
            pieces: Iterator[bytes] = iter(())
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration:
                    return
                outcome = None
                if isinstance(step, JobEvent):
                    yield step
                elif isinstance(step, Sleep):
                    held.close()
                    time.sleep(step.seconds)
                elif isinstance(step, Open):
                    outcome, pieces = self._open(step, held)
                else:
                    outcome = self._read(step.opened, pieces)

    def cancel(self, job: JobOrId) -> Job:
        """Cancels a job, unless it has ended; the job as it is then."""
        return self._run(self._calls.cancel(job))

    def replay(self, job: JobOrId) -> Job:
        """Submits a failed job again, as a new one; the same new one however often it is called."""
        return self._run(self._calls.replay(job))

    def delete(self, job: JobOrId) -> None:
        """Forgets a job, canceling it first if it has not ended."""
        self._run(self._calls.delete(job))

    def jobs(self, *, model: str = "", status: str = "") -> Iterator[Job]:
        """The jobs of this API key, the newest first, without their outputs; of one model or status where that is
        named. Pages are fetched as they are needed."""
        cursor = ""
        while True:
            page, cursor = self._run(self._calls.page(model, status, cursor))
            yield from page
            if not cursor:
                return

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._http.base_url)!r})"

    def _run(self, steps: Steps[T]) -> T:
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Send):
                outcome = self._send(step)
            else:
                time.sleep(step.seconds)
                outcome = None

    def _send(self, step: Send) -> Reply | Failure:
        try:
            request = self._http.build_request(**request_arguments(step, self._options, self._clock))
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if self._clock() >= step.deadline:
                        return late(step)
            finally:
                response.close()
        except httpx.RequestError as error:
            return failure_of(error, step, self._clock)
        return Reply(response.status_code, response.headers, body)

    def _open(self, step: Open, held: ExitStack) -> tuple[Opened | Reply | Failure, Iterator[bytes]]:
        """What came of it, and the pieces of the answer that is open now, which is closed with `held`."""
        held.close()
        try:
            request = self._http.build_request(**request_arguments(step, self._options, self._clock))
            response = self._http.send(request, stream=True)
            held.callback(response.close)
            if response.status_code == 200:
                return Opened(), response.iter_bytes()
            return Reply(response.status_code, response.headers, response.read()), iter(())
        except httpx.RequestError as error:
            return failure_of(error, step, self._clock), iter(())

    def _read(self, opened: Open, pieces: Iterator[bytes]) -> bytes | Failure:
        try:
            piece = next(pieces, b"")
        except httpx.RequestError as error:
            return failure_of(error, opened, self._clock)
        return late(opened) if self._clock() >= opened.deadline else piece
