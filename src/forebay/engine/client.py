"""What `api` and `worker` may know of an engine, so that it can move behind a socket later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from forebay.cascade.policy import CascadeRules
from forebay.core.caching import CacheRules
from forebay.core.request import Request
from forebay.models.signature import Signature
from forebay.variants.policy import VariantRules

EngineState = Literal["starting", "ready", "failed", "draining"]


class Duration(msgspec.Struct):
    """A count and a total, as the protocol's statistics show them."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, seconds: float) -> None:
        """Count `count` requests that took `seconds` in total."""
        self.count += count
        self.ns += int(seconds * 1e9)


class BatchSizeStatistics(msgspec.Struct):
    """Executions of one batch size (rows)."""

    rows: int
    compute: Duration = msgspec.field(default_factory=Duration)


class EngineStatistics(msgspec.Struct):
    """Counts since the engine started. Source: Triton's statistics extension."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)
    compute: Duration = msgspec.field(default_factory=Duration)
    cache_hit: Duration = msgspec.field(default_factory=Duration)
    cache_miss: Duration = msgspec.field(default_factory=Duration)
    batches: dict[int, BatchSizeStatistics] = msgspec.field(default_factory=dict)


class Tuning(msgspec.Struct):
    """How far the search for the best number of instances and threads is. Sizes are written 2x1: 2 instances of 1."""

    state: Literal["waiting", "measuring", "settled"]
    chosen: str = ""
    """Empty where nothing was found out: then it is the default."""
    rows_per_s: dict[str, float] = msgspec.field(default_factory=dict)
    """By size, as measured without HTTP."""
    reason: str = ""


class EngineClient(Protocol):
    """One model, ready to answer. All calls are made on the event loop; a submitted request belongs to the engine."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def platform(self) -> str: ...
    @property
    def state(self) -> EngineState: ...
    @property
    def reason(self) -> str:
        """Why the engine is not ready; empty when it is."""
        ...

    @property
    def max_batch_rows(self) -> int:
        """The hard cap; 0 where the model does not batch."""
        ...

    @property
    def best_rows(self) -> int:
        """Rows at which a row costs least, by what has been measured."""
        ...

    @property
    def asked_lately(self) -> bool:
        """Whether somebody has waited for an answer in the last seconds."""
        ...

    @property
    def streams(self) -> bool:
        """Whether the model yields its answer in pieces."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes of its outputs, by index; empty where it has none."""
        ...

    @property
    def label_file(self) -> str:
        """The file that `labels` came from, without its folder; empty where there is none."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found out about the model when it was loaded, in words by subject."""
        ...

    @property
    def digest(self) -> str:
        """Of the model's files."""
        ...

    @property
    def caching(self) -> CacheRules | None:
        """How its answers are cached; None: they are not."""
        ...

    @property
    def cascading(self) -> CascadeRules | None:
        """When its student answers; None: it has none here."""
        ...

    @property
    def varying(self) -> VariantRules | None:
        """Which variants may answer for it; None: none may here."""
        ...

    @property
    def backlog_s(self) -> float:
        """How long a row would wait now before it runs; 0 where that is not known."""
        ...

    @property
    def row_compute_s(self) -> float:
        """Mean time of a row at an instance, by what ran so far; 0 where that is not known."""
        ...

    @property
    def default_timeout_s(self) -> float: ...
    @property
    def instances(self) -> int: ...
    @property
    def max_queue_delay_ms(self) -> float: ...
    @property
    def tuning(self) -> Tuning | None:
        """None where instances and threads are not `auto`."""
        ...

    def submit(self, request: Request) -> None:
        """Queue it. Raises `AdmissionError`, and `RequestError` for a value that the model refuses; else
        `request.on_done(request)` is called once, later (from the cache, perhaps before this returns).

        With `request.background` set it waits behind all others, and its deadline is set when it begins.
        """
        ...

    def waits(self, request: Request) -> bool:
        """Whether a submitted request can still be canceled without a loss: nothing of it has run."""
        ...

    def cancel(self, request: Request) -> None:
        """The caller left: drop it from the queue, or discard its answer. `on_done` is not called any more."""
        ...

    def statistics(self) -> EngineStatistics: ...
