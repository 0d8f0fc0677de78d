"""`RemoteEngine`: a model that workers have, as an `EngineClient` of a process that has no engine."""

from __future__ import annotations

import logging
import time

import msgspec

from forebay.batching.batcher import level_of
from forebay.cascade.policy import CascadeRules
from forebay.core.caching import CacheRules
from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, ExecutionError, ForebayError, RequestError
from forebay.core.request import Request
from forebay.engine.call_codec import CallCodec
from forebay.engine.client import EngineState, EngineStatistics, Tuning
from forebay.engine.exchange import Exchange
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.jobs.directory import ServedModel, Standing
from forebay.models.signature import Signature
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import ModelMetrics
from forebay.variants.policy import VariantRules

log = logging.getLogger("forebay.engine")

NOBODY = "no worker that serves it is there now; jobs are accepted and wait for one"


class RemoteEngine:
    """One version of a model. `stand` tells it how things are with its workers."""

    def __init__(self, standing: Standing, exchange: Exchange, clock: Clock = time.monotonic) -> None:
        """`clock`: monotonic seconds, that of deadlines."""
        self.name = standing.model.name
        self.version = standing.model.version
        self.model: ServedModel = standing.model
        self.workers = standing.workers
        self._differs = standing.differs
        self.in_flight = 0
        self.metrics = ModelMetrics(self.name, self.version, self._gauges)
        self._record = Recorder(self.metrics)
        self._draining = ""
        self._exchange = exchange
        self._clock = clock
        self._codec = CallCodec(standing.model.signature)
        self._form = standing.model.form

    def stand(self, standing: Standing) -> None:
        """What is told of it now; requests are read and answered as before."""
        self.model, self.workers, self._differs = standing.model, standing.workers, standing.differs

    def same_form(self, standing: Standing) -> bool:
        """Whether requests and answers are read and written as they are now."""
        mine, other = self.model, standing.model
        return (mine.signature, mine.labels, mine.default_timeout_s, mine.caching) == (
            other.signature,
            other.labels,
            other.default_timeout_s,
            other.caching,
        )

    # -- what is told of it -------------------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """Ready while a worker has it."""
        if self._draining:
            return "draining"
        return "ready" if self.workers else "failed"

    @property
    def reason(self) -> str:
        """Why it is not ready."""
        return self._draining or ("" if self.workers else NOBODY)

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return self.model.signature

    @property
    def platform(self) -> str:
        """What runs it."""
        return self.model.platform

    @property
    def max_batch_rows(self) -> int:
        """The hard cap of a batch."""
        return self.model.max_batch_rows

    @property
    def asked_lately(self) -> bool:
        """Jobs do not run here, so nobody need know."""
        return False

    @property
    def best_rows(self) -> int:
        """Nobody leases jobs for it here."""
        return max(1, self.model.max_batch_rows)

    @property
    def streams(self) -> bool:
        """Whether it yields its answer in pieces."""
        return self.model.streams

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes."""
        return self.model.labels

    @property
    def label_file(self) -> str:
        """Where they came from."""
        return self.model.label_file

    @property
    def facts(self) -> dict[str, str]:
        """What the worker found out."""
        return self.model.facts

    @property
    def digest(self) -> str:
        """Of the model's files; empty while workers have different ones."""
        return "" if "digest" in self._differs else self.model.digest

    @property
    def caching(self) -> CacheRules | None:
        """How its answers are cached here."""
        return self.model.caching

    @property
    def cascading(self) -> CascadeRules | None:
        """Workers ask its student themselves."""
        return None

    @property
    def varying(self) -> VariantRules | None:
        """Workers choose variants themselves."""
        return None

    @property
    def backlog_s(self) -> float:
        """Workers know it."""
        return 0.0

    @property
    def row_compute_s(self) -> float:
        """Workers know it."""
        return 0.0

    @property
    def default_timeout_s(self) -> float:
        """Seconds that a request without its own timeout gets."""
        return self.model.default_timeout_s

    @property
    def instances(self) -> int:
        """At all workers together, as if each had as many as the newest."""
        return self.model.instances * max(1, len(self.workers))

    @property
    def max_queue_delay_ms(self) -> float:
        """How long a row may wait for company."""
        return self.model.max_queue_delay_ms

    @property
    def tuning(self) -> Tuning | None:
        """How far the measuring is at the newest worker."""
        return msgspec.convert(self.model.tuning, Tuning) if self.model.tuning is not None else None

    def statistics(self) -> EngineStatistics:
        """Of what went through this process."""
        return self._record.statistics

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`."""
        if self.state != "ready":
            code = "draining" if self._draining else "model_not_ready"
            self._record.refused(code)
            raise AdmissionError(f"model {self.name!r} is {self.state}: {self.reason}", code=code)
        if request.listener is not None:
            raise RequestError(
                f"answers in pieces do not come from workers yet: ask model {self.name!r} for its whole answer, or "
                "send a job and listen to its events",
                code="unsupported",
            )
        body = self._codec.pack(request, request.deadline - self._clock())
        self._exchange.submit(request, self._form, level_of(request.priority), body, self._ended)
        self.in_flight += 1

    def waits(self, request: Request) -> bool:
        """It is with workers from the beginning."""
        return False

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        if request.on_done is nobody:
            return
        request.on_done = nobody
        self._exchange.cancel(request)
        self.in_flight -= 1
        self._record.canceled()

    def _ended(self, request: Request, answer: bytes | ForebayError) -> None:
        """A request's one answer."""
        self.in_flight -= 1
        if isinstance(answer, bytes):
            try:
                self._codec.fill(request, answer)
            except Exception as error:  # whatever it holds: its caller waits for this one answer
                log.warning("a worker's answer cannot be read", exc_info=error, extra=fields(model=self.name))
                request.error = ExecutionError(f"a worker's answer cannot be read: {error}", code="output_mismatch")
        else:
            request.error = answer
        if request.error is not None:
            self._record.error(request.error.code)
        else:
            self._record.answered([request.arrived], request.arrived + request.queue_s, self._clock())
            statistics = self._record.statistics
            statistics.inference_count += request.rows
            statistics.last_inference_ms = int(time.time() * 1000)
        on_done, request.on_done = request.on_done, nobody
        on_done(request)

    def drain(self, reason: str = "the server is shutting down") -> None:
        """Refuse new requests."""
        self._draining = reason

    def _gauges(self) -> dict[str, float]:
        return {
            "forebay_in_flight_requests": self.in_flight,
            "forebay_queue_depth_rows": 0,
            "forebay_queue_depth_bytes": 0,
            "forebay_instances_ready": self.instances if self.workers else 0,
        }
