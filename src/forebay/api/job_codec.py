"""Jobs to requests and answers back, for the worker, which knows nothing of forms: they are those of `/infer`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import msgspec

from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.core.clock import Clock
from forebay.core.request import Outputs, Request
from forebay.engine.client import EngineClient
from forebay.jobs.record import JobError, JobSpec, Output
from forebay.worker.codec import OnDone, Opened

_decode: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder(dict[str, Any]).decode


class _Ride(NamedTuple):
    """Stands in `Request.wire` while the engine has the request."""

    endpoint: Endpoint
    form: Any


class InferenceCodec:
    """A `forebay.worker.codec.JobCodec` over the models that are served here. `clock`: monotonic seconds, the engines'
    own."""

    def __init__(self, inference: Inference, clock: Clock) -> None:
        self._inference = inference
        self._clock = clock

    def served(self) -> Mapping[str, EngineClient]:
        """The models that run here now."""
        return self._inference.engines

    def watch(self, call: Callable[[], None]) -> None:
        """Call this whenever a version of a model has come or gone."""
        self._inference.on_route.append(lambda path, endpoint: call())

    def open(self, spec: JobSpec, on_done: OnDone) -> Opened:
        """A job with a small body as a request. Raises `ForebayError`."""
        endpoint = self._find(spec)
        return _seated(endpoint, spec, endpoint.read(*self._given(spec, on_done)))

    def open_in_steps(self, spec: JobSpec, on_done: OnDone) -> Generator[None, None, Opened]:
        """The same for a large body, in short steps, each of which yields."""
        endpoint = self._find(spec)
        request = yield from endpoint.read_in_steps(*self._given(spec, on_done))
        return _seated(endpoint, spec, request)

    def close(self, request: Request) -> Output | JobError:
        """The answer of a request that is done. Never raises."""
        ride: _Ride = request.wire
        endpoint, request.wire = ride
        try:
            body = endpoint.plain(request)
        except Exception:
            body = None  # `answer` meets the same error, and says what it is
        if body is not None:
            return Output(body)
        answer = endpoint.answer(request)
        if answer.status != 200:
            error = _decode(answer.body)
            return JobError(error["code"], error["error"], error.get("stage", ""))
        headers = dict(answer.headers)
        length = headers.get(b"inference-header-content-length", b"")
        return Output(answer.body, headers[b"content-type"].decode(), length.decode())

    def piece(self, request: Request, row: int, outputs: Outputs) -> bytes:
        """A piece of the answer to one row, as `generate_stream` has it, with the row's number from 0."""
        ride: _Ride = request.wire
        return b'{"row":%d,%b' % (row, ride.endpoint.generate.piece(request, outputs)[1:])

    def _find(self, spec: JobSpec) -> Endpoint:
        return self._inference.find(spec.model, spec.version or None)

    def _given(self, spec: JobSpec, on_done: OnDone) -> tuple[bytes, float, OnDone, bytes | None, bytes | None]:
        content_type, length = spec.content_type.encode("latin-1"), spec.header_length.encode("latin-1")
        return spec.body, self._clock(), on_done, content_type or None, length or None


def _seated(endpoint: Endpoint, spec: JobSpec, request: Request) -> Opened:
    if endpoint.recall is not None:
        request.cache = endpoint.recall.ask_of_job(spec)
    request.tenant = spec.tenant
    request.wire = _Ride(endpoint, request.wire)
    return endpoint.engine, request
