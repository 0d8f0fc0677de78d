"""A small engine for the API's tests: numpy functions answered on the event loop, no process and no batching."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from tests.unit.api.job_site import JobSite

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.cascade.policy import CascadeRules
from forebay.core.caching import CacheRules
from forebay.core.errors import ForebayError
from forebay.core.request import Outputs, Request, payload_array
from forebay.core.settings import ServerSettings
from forebay.core.tensors import Array
from forebay.engine.client import EngineState, EngineStatistics, Tuning
from forebay.models.signature import Signature, TensorSpec
from forebay.variants.policy import VariantRules

Function = Callable[..., Sequence[Array]]


class FunctionEngine:
    """A test double of `EngineClient`: runs `function(*inputs)` for each request by itself."""

    platform = "python"
    version = "1"
    instances = 2
    best_rows = 64
    asked_lately = False
    streams = False
    max_queue_delay_ms = 0.5
    default_timeout_s = 30.0
    digest: str = ""
    labels: Sequence[str] = ()
    label_file = ""
    facts: Mapping[str, str] = MappingProxyType({"batching": "batches of up to 64 rows"})
    tuning: Tuning | None = None
    caching: CacheRules | None = None
    cascading: CascadeRules | None = None
    varying: VariantRules | None = None
    backlog_s = 0.0
    row_compute_s = 0.001

    def __init__(self, name: str, signature: Signature, function: Function) -> None:
        self.name = name
        self.signature = signature
        self.function = function
        self.state: EngineState = "ready"
        self.reason = ""
        self.max_batch_rows = 64 if signature.batched else 0
        self.refuse_with: ForebayError | Exception | None = None
        self.fail_with: ForebayError | None = None
        self.held: list[Request] | None = None
        self.seen: list[Request] = []
        self.canceled: list[Request] = []
        self.counts = EngineStatistics()

    def submit(self, request: Request) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.seen.append(request)
        if self.held is not None:
            self.held.append(request)
            return
        asyncio.get_running_loop().call_soon(self.finish, request)

    def finish(self, request: Request) -> None:
        if self.fail_with is not None:
            request.error = self.fail_with
        else:
            self.run(request)
        request.on_done(request)

    def run(self, request: Request) -> None:
        """Sets the outputs of one request."""
        inputs = []
        for spec, payload, shape in zip(self.signature.inputs, request.inputs, request.shapes, strict=True):
            whole = (request.rows, *shape) if self.signature.batched else shape
            inputs.append(payload_array(payload, spec.datatype, whole))
        specs = self.signature.outputs
        arrays = self.function(*inputs)
        names, datatypes = [spec.name for spec in specs], [spec.datatype for spec in specs]
        request.outputs = Outputs(names, datatypes, arrays, request.rows)
        request.batch_rows = request.rows
        request.queue_s, request.dispatch_reason = 0.0015, "idle"
        self.counts.inference_count += request.rows
        self.counts.execution_count += 1
        self.counts.success.add(1, 0.002)
        self.counts.compute.add(1, 0.001)

    def waits(self, request: Request) -> bool:
        return self.held is not None and any(one is request for one in self.held)

    def cancel(self, request: Request) -> None:
        self.canceled.append(request)

    def statistics(self) -> EngineStatistics:
        return self.counts


def build_engines() -> dict[str, FunctionEngine]:
    """One model of every kind that the API treats differently."""
    fp32 = Signature((TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", (2,)),))
    two = Signature(
        (TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "FP64", (-1,))),
        (TensorSpec("sum", "FP64", (-1,)), TensorSpec("count", "INT64", ())),
    )
    text = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("upper", "BYTES", (1,)),))
    whole = Signature((TensorSpec("m", "UINT8", (2, -1)),), (TensorSpec("t", "UINT8", (-1, 2)),), batched=False)
    return {
        "mlp": FunctionEngine("mlp", fp32, lambda x: [(x[:, :2] * np.float32(2)).astype(np.float32)]),
        "two": FunctionEngine("two", two, lambda a, b: [a + b, np.full(len(a), a.shape[1], np.int64)]),
        "text": FunctionEngine("text", text, lambda t: [np.vectorize(bytes.upper, otypes=[object])(t)]),
        "whole": FunctionEngine("whole", whole, lambda m: [np.ascontiguousarray(m.T)]),
    }


@pytest.fixture
def engines() -> dict[str, FunctionEngine]:
    return build_engines()


@pytest.fixture
def make_inference(engines: dict[str, FunctionEngine]) -> Callable[..., Inference]:
    def make(keys: Keys | None = None, requests_per_s: float | None = None, **server: Any) -> Inference:
        gate = Gate(keys or Keys({}), Quota(requests_per_s, lambda: 0.0))
        return Inference(engines, ServerSettings(**server), gate)

    return make


@pytest.fixture
async def site(make_inference: Callable[..., Inference]) -> AsyncIterator[JobSite]:
    site = JobSite(make_inference())
    yield site
    await site.close()
