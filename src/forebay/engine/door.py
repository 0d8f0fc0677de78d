"""The engine's side towards its callers: what they may ask of it, and how a request gets in."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from forebay.batching import Batcher
from forebay.cascade.policy import CascadeRules
from forebay.core.caching import CacheRules, SemanticRules
from forebay.core.errors import AdmissionError, ExecutionError, RequestError
from forebay.core.request import Background, Request
from forebay.engine import assemble
from forebay.engine.answers import Answers
from forebay.engine.client import EngineState, EngineStatistics, Tuning
from forebay.engine.cores import Turns
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.engine.setup import Plan
from forebay.engine.split import Pieces, lane_and_length, split
from forebay.engine.streams import Streams
from forebay.engine.supervisor import Supervisor
from forebay.models.signature import Signature
from forebay.request_log.sampler import Sampler
from forebay.telemetry.metrics import ModelMetrics
from forebay.variants.policy import VariantRules


class Door(ABC):
    """See `EngineClient` for what callers may use. The engine is a door with instances behind it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.source.name
        self.version = plan.source.version
        self.state: EngineState = "starting"
        self.reason = "loading"
        self.supervisor: Supervisor
        self.signature: Signature
        self.platform = ""
        self.labels: tuple[str, ...] = ()
        self.label_file = ""
        self.facts: dict[str, str] = {}
        self.batchable = False
        self.streams = False
        self.digest = ""
        self.semantic: SemanticRules | None = None
        self.cascading: CascadeRules | None = None
        self.varying: VariantRules | None = None
        self.tuning: Tuning | None = None
        self.turns: Turns | None = None
        """Set while other engines share the cores."""
        self.metrics = ModelMetrics(self.name, self.version, self._gauges)
        self._record = Recorder(self.metrics)
        self._answers = Answers(self.name, self._record)
        self._batcher: Batcher[Request]
        self._streams = Streams(self.name, self._answers, self._record, time.monotonic)
        self._fixed = False
        self._check: Callable[[Request], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic  # uvloop's own clock counts whole milliseconds
        self._pump_due = False

    @property
    def in_flight(self) -> int:
        """Requests that are admitted and not answered yet."""
        return self._answers.in_flight

    def log_by(self, sampler: Sampler) -> None:
        """Have this one choose what of the answered is written down."""
        self._answers.sampler = sampler

    @property
    def max_batch_rows(self) -> int:
        """The hard cap; 0 where the model does not batch."""
        return self._batcher.policy.max_batch_rows if self.signature.batched and self.batchable else 0

    @property
    def best_rows(self) -> int:
        """Rows at which a row costs least, by what has been measured."""
        return self._batcher.piece_rows(0)

    @property
    def asked_lately(self) -> bool:
        """Whether somebody has waited for an answer in the last seconds."""
        return self._batcher.has_company(self._clock())

    @property
    def default_timeout_s(self) -> float:
        """Seconds that a request without its own timeout gets."""
        return self.plan.settings.default_timeout_s

    @property
    def instances(self) -> int:
        """Instances that there should be."""
        return self.supervisor.wanted

    @property
    def max_queue_delay_ms(self) -> float:
        """How long a row may wait for company while an instance is free."""
        return self.plan.settings.max_queue_delay_ms

    @property
    def caching(self) -> CacheRules | None:
        """How its answers are cached; None: they are not. An answer in pieces never is."""
        settings = self.plan.settings
        if settings.cache == "off" or self.streams or not self.digest:
            return None
        return CacheRules(
            settings.cache_ttl_s, settings.cache_stale_s, settings.cache_shared, settings.deterministic, self.semantic
        )

    @property
    def backlog_s(self) -> float:
        """How long a row would wait now before it runs."""
        return self._batcher.backlog_s(self._clock())

    @property
    def row_compute_s(self) -> float:
        """Mean time of a row at an instance, by what ran so far."""
        return self.metrics.compute_s.total / max(1, self._record.statistics.inference_count)

    def waits(self, request: Request) -> bool:
        """Whether nothing of it has run."""
        return request.order is not None and request.pieces is None and request.background is None

    def submit(self, request: Request) -> None:
        """Queue a request; see `EngineClient.submit`."""
        if self.turns is not None:
            self.turns.asked()
        if self.state != "ready":
            self._refuse(request)
        if self._check is not None:
            self._check(request)
        if request.background is not None:
            self._submit_behind(request, request.background)
        elif self._fixed and request.rows == 1:
            self._offer(request)
        elif request.rows == 0:
            self._loop.call_soon(self._answer_empty, request)
        else:
            lane_and_length(self.signature, self.plan.pads, request, self.plan.pad_multiple)
            limit = self._batcher.piece_rows(request.length)
            if self.batchable and request.rows > limit:
                self._offer_pieces(request, limit)
            else:
                self._offer(request)
        self._answers.in_flight += 1
        self._pump_soon()

    def _submit_behind(self, request: Request, background: Background) -> None:
        """Queue a request that nobody waits for."""
        if request.rows == 0:
            self._loop.call_soon(self._answer_empty, request)
            return
        request.deadline = math.inf
        pieces = [request]
        if not self._fixed or request.rows > 1:
            lane_and_length(self.signature, self.plan.pads, request, self.plan.pad_multiple)
            limit = self._batcher.piece_rows(request.length)
            if self.batchable and request.rows > limit:
                request.pieces = Pieces(split(self.signature, request, limit, self._piece_done))
                pieces = request.pieces.items
        now = self._clock()
        for piece in pieces:
            if background.alone:
                piece.lane = object()
            self._batcher.offer_background(piece, now)

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _offer(self, request: Request) -> None:
        refusal = self._batcher.offer(request, self._clock())
        if refusal is not None:
            self._check_that_it_fits(request)
            self._record.refused(refusal.code)
            raise AdmissionError(self._why(refusal.code), code=refusal.code, retry_after_s=refusal.retry_after_s)

    def _offer_pieces(self, request: Request, limit: int) -> None:
        batcher, policy = self._batcher, self._batcher.policy
        if (
            batcher.depth_rows + request.rows > policy.max_queue_rows
            or batcher.depth_bytes + request.nbytes > policy.max_queue_bytes
        ):
            self._check_that_it_fits(request)
            self._record.refused("queue_full")  # before the work of splitting it
            raise AdmissionError(f"{self._why('queue_full')}, the request has {request.rows}", code="queue_full")
        request.pieces = pieces = Pieces(split(self.signature, request, limit, self._piece_done))
        decoding_s = self._clock() - request.arrived
        for place, piece in enumerate(pieces.items):
            piece.behind_s = decoding_s + self._batcher.behind_s(place, limit, request.length)
            try:
                self._offer(piece)
            except AdmissionError:
                self._drop(request)
                raise

    def _check_that_it_fits(self, request: Request) -> None:
        """Raises `RequestError` (`payload_too_large`) where even an empty queue has no room for it."""
        policy = self._batcher.policy
        for setting, most, got, unit in (
            ("max_queue_rows", policy.max_queue_rows, request.rows, "rows"),
            ("max_queue_bytes", policy.max_queue_bytes, request.nbytes, "bytes"),
        ):
            if got > most:
                self._record.refused("payload_too_large")
                why = f"the request has {got} {unit}, more than may wait for model {self.name!r} ({setting} is {most})"
                raise RequestError(f"{why}: send it in parts", code="payload_too_large")

    def _refuse(self, request: Request) -> None:
        code = "draining" if self.state == "draining" else "model_not_ready"
        self._record.refused(code)
        raise AdmissionError(f"model {self.name!r} is {self.state}: {self.reason}", code=code)

    def _why(self, code: str) -> str:
        if code == "queue_full":
            return f"the queue of model {self.name!r} is full: {self._batcher.depth_rows} rows wait"
        return f"model {self.name!r} is too busy to answer before the request's deadline"

    def _answer_empty(self, request: Request) -> None:
        if request.on_done is nobody:
            return
        request.outputs = assemble.empty_outputs(self.signature)
        now = self._clock()
        self._answers.whole(request, now, now)

    def cancel(self, request: Request) -> None:
        """The caller left; see `EngineClient.cancel`."""
        if request.on_done is nobody:
            return
        request.on_done = nobody
        self._drop(request)
        self._answers.canceled(request)

    def _drop(self, request: Request) -> None:
        for piece in request.pieces.items if request.pieces is not None else (request,):
            piece.on_done = nobody
            self._batcher.discard(piece)
        if self.streams:
            self._streams.dismiss(self.supervisor.instances.values())

    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        return self._record.statistics

    def _piece_done(self, piece: Request) -> None:
        """One piece of a split request is answered; the whole is once all are, or once one has failed."""
        request: Request = piece.pieces
        if request.on_done is nobody:
            return
        pieces: Pieces = request.pieces
        pieces.left -= 1
        if piece.error is not None:
            self._drop(request)
            self._answers.fail(request, piece.error)
        elif pieces.left == 0:
            try:
                request.outputs = assemble.join(self.signature, pieces.items)
            except ValueError as error:
                message = f"the outputs of a split request do not fit together: {error}"
                self._answers.fail(request, ExecutionError(message, code="output_mismatch"))
                return
            request.batch_rows, request.queue_s = piece.batch_rows, piece.queue_s
            request.dispatch_reason, request.padding_waste = piece.dispatch_reason, piece.padding_waste
            self._answers.whole(request, request.arrived + piece.queue_s, self._clock())

    @abstractmethod
    def _pump(self) -> None:
        """Send what may be sent."""

    @abstractmethod
    def _gauges(self) -> dict[str, float]:
        """What the model's metrics show of the queue and the instances now."""
