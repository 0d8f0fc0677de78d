"""The blocking client. It sends and sleeps; everything else is in `calls.py`."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from forebay.client.calls import Calls
from forebay.client.connections import failure_of, late, request_arguments, settings
from forebay.client.options import ClientOptions, InferOptions
from forebay.client.results import Result
from forebay.client.steps import Failure, Reply, Send, Steps

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
        self._calls = Calls(options, clock=self._clock, chance=random.Random().random, today=lambda: datetime.now(UTC))
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
