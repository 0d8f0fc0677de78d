"""An engine around another one, of which it tells what the other is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forebay.cascade.policy import CascadeRules
from forebay.core.caching import CacheRules
from forebay.core.request import Request
from forebay.engine.client import EngineClient, EngineState, EngineStatistics, Tuning
from forebay.models.signature import Signature
from forebay.variants.policy import VariantRules


class ForwardedEngine:
    """An `EngineClient` that passes everything on to `inner`."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner = inner
        self.name = inner.name
        self.version = inner.version
        self.signature: Signature = inner.signature

    @property
    def platform(self) -> str:
        """What runs it."""
        return self.inner.platform

    @property
    def state(self) -> EngineState:
        """Whether it can answer."""
        return self.inner.state

    @property
    def reason(self) -> str:
        """Why not."""
        return self.inner.reason

    @property
    def max_batch_rows(self) -> int:
        """The hard cap."""
        return self.inner.max_batch_rows

    @property
    def best_rows(self) -> int:
        """Rows at which a row costs least."""
        return self.inner.best_rows

    @property
    def asked_lately(self) -> bool:
        """Whether somebody has waited for an answer in the last seconds."""
        return self.inner.asked_lately

    @property
    def streams(self) -> bool:
        """Whether it yields its answer in pieces."""
        return self.inner.streams

    @property
    def labels(self) -> Sequence[str]:
        """Names of its classes."""
        return self.inner.labels

    @property
    def label_file(self) -> str:
        """Where they came from."""
        return self.inner.label_file

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found out at load."""
        return self.inner.facts

    @property
    def digest(self) -> str:
        """Of the model's files."""
        return self.inner.digest

    @property
    def caching(self) -> CacheRules | None:
        """How its answers are cached."""
        return self.inner.caching

    @property
    def cascading(self) -> CascadeRules | None:
        """When its student answers."""
        return self.inner.cascading

    @property
    def varying(self) -> VariantRules | None:
        """Which variants may answer for it."""
        return self.inner.varying

    @property
    def backlog_s(self) -> float:
        """How long a row would wait."""
        return self.inner.backlog_s

    @property
    def row_compute_s(self) -> float:
        """Mean time of a row at an instance."""
        return self.inner.row_compute_s

    @property
    def default_timeout_s(self) -> float:
        """Seconds that a request without its own timeout gets."""
        return self.inner.default_timeout_s

    @property
    def instances(self) -> int:
        """Instances that there should be."""
        return self.inner.instances

    @property
    def max_queue_delay_ms(self) -> float:
        """How long a row may wait for company."""
        return self.inner.max_queue_delay_ms

    @property
    def tuning(self) -> Tuning | None:
        """How far the measuring is."""
        return self.inner.tuning

    def submit(self, request: Request) -> None:
        """See `EngineClient.submit`."""
        self.inner.submit(request)

    def waits(self, request: Request) -> bool:
        """See `EngineClient.waits`."""
        return self.inner.waits(request)

    def cancel(self, request: Request) -> None:
        """See `EngineClient.cancel`."""
        self.inner.cancel(request)

    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        return self.inner.statistics()
