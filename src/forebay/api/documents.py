"""The protocol's read-only documents: metadata, Triton's model configuration, statistics, readiness.

Sources: the Open Inference Protocol v2 (server and model metadata); Triton's model configuration, statistics and model
repository extensions. Stock clients and load generators read these before they send anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from forebay.engine.client import Duration, EngineClient
from forebay.models.repository import VersionPolicy
from forebay.models.signature import TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "generate",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)


PARAMETER_PREFIX = "forebay."
"""Of the parameters in a model's configuration that tell how far the measuring of instances and threads is."""


class ServerMetadata(msgspec.Struct):
    """`GET /v2`."""

    name: str
    version: str
    extensions: Sequence[str] = EXTENSIONS


def extensions(*, own_log: bool) -> Sequence[str]:
    """What is told in the metadata. own_log: the log is Forebay's; of another program's nothing can be turned."""
    return EXTENSIONS if own_log else [name for name in EXTENSIONS if name != "logging"]


class TensorMetadata(msgspec.Struct):
    """One input or output; -1 in `shape` is a variable axis, the batch axis included."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """`GET /v2/models/{model}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def model_metadata(engine: EngineClient, versions: list[str] | None = None) -> ModelMetadata:
    """What the protocol tells about one model. `versions`: those that are ready; None: the engine's own."""
    signature = engine.signature

    def tensors(specs: Iterable[TensorSpec]) -> list[TensorMetadata]:
        return [TensorMetadata(spec.name, spec.datatype, signature.wire_shape(spec)) for spec in specs]

    return ModelMetadata(
        engine.name,
        versions or [engine.version],
        engine.platform,
        tensors(signature.inputs),
        tensors(signature.outputs),
    )


class ConfigInput(msgspec.Struct):
    """One input of Triton's configuration; `dims` lack the batch axis where `max_batch_size` is above 0."""

    name: str
    data_type: str
    dims: list[int]
    format: str = "FORMAT_NONE"
    is_shape_tensor: bool = False
    allow_ragged_batch: bool = False
    optional: bool = False
    is_non_linear_format_io: bool = False


class ConfigOutput(msgspec.Struct):
    """One output of Triton's configuration."""

    name: str
    data_type: str
    dims: list[int]
    label_filename: str = ""
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


class InstanceGroup(msgspec.Struct):
    """How many copies of the model are loaded."""

    name: str
    count: int
    kind: str = "KIND_AUTO"
    gpus: list[int] = []
    secondary_devices: list[Any] = []
    profile: list[str] = []
    passive: bool = False
    host_policy: str = ""


class DynamicBatching(msgspec.Struct):
    """Triton's name for rows of several requests sharing a batch. `preferred_batch_size` is empty: it is measured."""

    max_queue_delay_microseconds: int
    preferred_batch_size: list[int] = []
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    priority_queue_policy: dict[str, Any] = {}


class ModelConfig(msgspec.Struct):
    """`GET /v2/models/{model}/config`, in the form of Triton's ModelConfig."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    instance_group: list[InstanceGroup]
    dynamic_batching: DynamicBatching | msgspec.UnsetType = msgspec.UNSET
    version_policy: dict[str, Any] = msgspec.field(default_factory=lambda: {"latest": {"num_versions": 1}})
    batch_input: list[Any] = []
    batch_output: list[Any] = []
    default_model_filename: str = ""
    cc_model_filenames: dict[str, str] = {}
    metric_tags: dict[str, str] = {}
    parameters: dict[str, dict[str, str]] = {}
    model_warmup: list[Any] = []
    model_transaction_policy: dict[str, bool] = msgspec.field(default_factory=lambda: {"decoupled": False})


def model_config(engine: EngineClient, policy: VersionPolicy | None = None) -> ModelConfig:
    """Triton's configuration of one model. `max_batch_size` 0: its `dims` are whole shapes."""
    signature = engine.signature
    batched = signature.batched and engine.max_batch_rows > 0

    def dims(spec: TensorSpec) -> list[int]:
        return list(spec.row_shape) if batched else signature.wire_shape(spec)

    return ModelConfig(
        name=engine.name,
        version_policy=_version_policy(policy),
        platform=engine.platform if "_" in engine.platform else "",
        backend=engine.platform.partition("_")[0],
        max_batch_size=engine.max_batch_rows if batched else 0,
        input=[ConfigInput(spec.name, _triton_type(spec.datatype), dims(spec)) for spec in signature.inputs],
        output=[
            ConfigOutput(spec.name, _triton_type(spec.datatype), dims(spec), engine.label_file)
            for spec in signature.outputs
        ],
        instance_group=[InstanceGroup(f"{engine.name}_0", engine.instances)],
        dynamic_batching=DynamicBatching(round(engine.max_queue_delay_ms * 1e3)) if batched else msgspec.UNSET,
        parameters=_told_of(engine),
    )


def _told_of(engine: EngineClient) -> dict[str, Any]:
    """What was found out about a model, in the form of Triton's parameters, whose values are text."""
    told = dict(engine.facts)
    tuning = engine.tuning
    if tuning is not None:
        rates = " ".join(f"{size}={rate:.6g}" for size, rate in tuning.rows_per_s.items())
        found = {"state": tuning.state, "chosen": tuning.chosen, "rows_per_s": rates, "reason": tuning.reason}
        told |= {f"tuning_{name}": text for name, text in found.items()}
    return {f"{PARAMETER_PREFIX}{name}": {"string_value": text} for name, text in told.items()}


def _triton_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


class BatchStatistics(msgspec.Struct):
    """Executions of one batch size. Input and output handling are part of `compute_infer`, so their time is 0."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


def _version_policy(policy: VersionPolicy | None) -> dict[str, Any]:
    if policy is None or policy.latest:
        return {"latest": {"num_versions": policy.latest if policy is not None else 1}}
    return {"specific": {"versions": list(policy.listed)}} if policy.listed else {"all": {}}


class InferenceStatistics(msgspec.Struct):
    """Counts and total nanoseconds, by request."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(msgspec.Struct):
    """One model's part of the statistics. `last_inference` is in milliseconds since the epoch; 0: none yet."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]
    response_stats: dict[str, Any] = {}
    memory_usage: list[Any] = []


class StatisticsDocument(msgspec.Struct):
    """`GET /v2/models/stats` and `GET /v2/models/{model}/stats`."""

    model_stats: list[ModelStatistics]


def statistics_document(engines: Iterable[EngineClient]) -> StatisticsDocument:
    """The statistics of these models since they started."""
    return StatisticsDocument([_model_statistics(engine) for engine in engines])


def _model_statistics(engine: EngineClient) -> ModelStatistics:
    counts = engine.statistics()
    elsewhere = Duration(counts.compute.count, 0)
    return ModelStatistics(
        name=engine.name,
        version=engine.version,
        last_inference=counts.last_inference_ms,
        inference_count=counts.inference_count,
        execution_count=counts.execution_count,
        inference_stats=InferenceStatistics(
            success=counts.success,
            fail=counts.fail,
            queue=counts.queue,
            compute_input=elsewhere,
            compute_infer=counts.compute,
            compute_output=elsewhere,
            cache_hit=counts.cache_hit,
            cache_miss=counts.cache_miss,
        ),
        batch_stats=[
            BatchStatistics(rows, Duration(entry.compute.count, 0), entry.compute, Duration(entry.compute.count, 0))
            for rows, entry in sorted(counts.batches.items())
        ],
    )


class IndexEntry(msgspec.Struct):
    """One model in `POST /v2/repository/index`."""

    name: str
    version: str
    state: str
    reason: str


def repository_index(engines: Iterable[EngineClient], ready_only: bool = False) -> list[IndexEntry]:
    """Every model with its state, in the words of Triton's model repository extension."""
    states = {"ready": "READY", "starting": "LOADING", "draining": "UNLOADING", "failed": "UNAVAILABLE"}
    return [
        IndexEntry(engine.name, engine.version, states[engine.state], engine.reason)
        for engine in engines
        if engine.state == "ready" or not ready_only
    ]


class Readiness(msgspec.Struct):
    """`GET /readyz` and `GET /v2/health/ready`: whether requests are welcome, and if not, why."""

    ready: bool
    reasons: list[str] = []


class ModelReadiness(msgspec.Struct):
    """`GET /v2/models/{model}/ready`; the protocol asks for `name` and `ready`."""

    name: str
    ready: bool
    reasons: list[str] = []


def model_readiness(engine: EngineClient) -> ModelReadiness:
    """Whether one model takes requests."""
    if engine.state == "ready":
        return ModelReadiness(engine.name, True)
    reason = f"model {engine.name} is {engine.state}" + (f": {engine.reason}" if engine.reason else "")
    return ModelReadiness(engine.name, False, [reason])
