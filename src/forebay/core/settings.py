"""The one settings tree: every key, its type, its bounds, its default and what it means.

The tree is read once at the composition root (`settings_sources.load_settings`) and passed on in pieces: nobody below
reads a file, a flag or the environment. docs/settings.md carries the same table; a test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
ByteCount = Annotated[int, Meta(ge=0)]
# What a batch of each size costs is kept for every size, and an instance or a thread is no small thing: a slip of the
# keyboard is told, not carried out until the memory is gone.
BatchRows = Annotated[int, Meta(ge=1, le=65_536)]
Copies = Annotated[int, Meta(ge=1, le=1024)]
Delay = Annotated[float, Meta(ge=0, le=3_600_000)]
Drain = Annotated[float, Meta(ge=0, le=86_400)]
Seconds = Annotated[float, Meta(ge=0.1, le=86_400)]
Retention = Annotated[float, Meta(gt=0, le=315_360_000)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
JsonDepth = Annotated[int, Meta(ge=1, le=512)]

Auto = Literal["auto"]

DEFAULT_TIMEOUT_S = 30.0
"""Seconds that a request without a timeout gets from a model without `slo_ms`."""

TRUST_KEYS = frozenset({"allow_pickle", "trusted_types", "request_log_redact"})
"""Keys that say whose files may run code here: the operator's alone, never taken from a file beside the model."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The web process: where it listens, what it accepts, how long it waits. `[server]` in forebay.toml."""

    host: Annotated[str, Meta(min_length=1, description="Address to bind.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to bind; 0 takes a free one.")] = 8000
    max_body_bytes: Annotated[ByteCount, Meta(description="Largest request body.")] = 64 << 20
    head_timeout_s: Annotated[Positive, Meta(description="Longest time for a request's head to arrive.")] = 10.0
    body_timeout_s: Annotated[Positive, Meta(description="Longest time for a request's body to arrive.")] = 30.0
    keep_alive_s: Annotated[Positive, Meta(description="How long an idle connection stays open.")] = 75.0
    drain_timeout_s: Annotated[Drain, Meta(description="How long in-flight work may finish at shutdown.")] = 30.0
    max_pipelined: Annotated[Count, Meta(description="Unanswered requests a connection; then reading pauses.")] = 8
    max_json_depth: Annotated[JsonDepth, Meta(description="Deepest nesting of a JSON body.")] = 64
    express_lane: Annotated[
        Literal["auto", "off"], Meta(description="Answer plain requests inside the HTTP protocol object.")
    ] = "auto"
    api_keys: Annotated[Path | None, Meta(description="File of API keys, a line each: NAME:SHA256HEX.")] = None
    insecure_no_auth: Annotated[bool, Meta(description="Allow a non-loopback bind without API keys.")] = False
    requests_per_s: Annotated[Positive | None, Meta(description="Quota of each API key.")] = None
    decode_off_loop_bytes: Annotated[
        ByteCount, Meta(description="Bodies above this size are decoded off the event loop.")
    ] = 64 << 10
    torchserve_api: Annotated[bool, Meta(description="Answer TorchServe's /ping and /predictions/MODEL as well.")] = (
        False
    )
    compress_from_bytes: Annotated[
        ByteCount, Meta(description="Inference answers from this size are compressed for clients that ask; 0: never.")
    ] = 64 << 10
    shared_memory_bytes: Annotated[
        ByteCount, Meta(description="Batches above this size travel to instances by shared memory.")
    ] = 256 << 10
    model_control: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Load and unload over HTTP; auto: with API keys, or where only this machine can call."),
    ] = "auto"
    fair_cores: Annotated[
        Literal["auto", "conserving", "off"],
        Meta(
            description="Models share the cores by weight; conserving: none is left free for who may be back at once; "
            "off: the operating system decides."
        ),
    ] = "auto"
    memory_limit_bytes: Annotated[
        ByteCount | None,
        Meta(description="Memory of all models; the least recently used are unloaded above it; none: no limit."),
    ] = None
    watch: Annotated[bool, Meta(description="Load and unload as the files of repositories change.")] = False
    watch_interval_s: Annotated[
        Positive, Meta(description="Time between two looks at the files; two alike make a change settled.")
    ] = 1.0


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The log on stderr. `[log]` in forebay.toml."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "json", "text"], Meta(description="auto: text on a terminal, JSON lines otherwise.")
    ] = "auto"


class JobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs: where they are kept, and what holds for those that do not say. `[jobs]` in forebay.toml."""

    store: Annotated[
        str | None,
        Meta(description="URL of a Redis or Valkey (from 7.2) that keeps the jobs; none: one is started here."),
    ] = None
    broker: Annotated[
        str | None,
        Meta(
            description="URL of what carries jobs to workers: a RabbitMQ, amqp://HOST:PORT/VHOST, an SQS, "
            "sqs://REGION/PREFIX, or a Kafka, kafka://HOST:PORT/PREFIX; none: the store does."
        ),
    ] = None
    durability: Annotated[
        Literal["everysec", "always"],
        Meta(description="What a power cut may cost in the store that is started here: the last second, or nothing."),
    ] = "everysec"
    lease_s: Annotated[Seconds, Meta(description="How long a job stays with a worker that has fallen silent.")] = 15.0
    republish_after_s: Annotated[
        Seconds, Meta(description="How long a queued job may be without a message before it gets another.")
    ] = 60.0
    max_attempts: Annotated[Copies, Meta(description="Runs that a job gets where its worker or instance dies.")] = 3
    retention_s: Annotated[Retention, Meta(description="How long a finished job is kept.")] = 86_400.0
    max_retention_s: Annotated[
        Retention, Meta(description="Longest retention that a job may ask for; never less than retention_s.")
    ] = 2_592_000.0
    webhook_secrets: Annotated[
        Path | None,
        Meta(description="File of the secrets that webhooks are signed with, one a line; none: there are no webhooks."),
    ] = None
    private_webhooks: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Webhooks to addresses that are not public; auto: where only this machine can call."),
    ] = "auto"
    max_queued: Annotated[Count, Meta(description="Most jobs that wait for one model; more are refused.")] = 2_000_000
    max_queued_bytes: Annotated[
        ByteCount, Meta(description="Most bytes of jobs that wait for one model; more are refused.")
    ] = 4 << 30
    shards: Annotated[int, Meta(ge=1, le=1024, description="Parts that keys are spread over in a Redis Cluster.")] = 1


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where answers are kept; which models have a cache is theirs to say. `[cache]` in forebay.toml."""

    memory_bytes: Annotated[
        ByteCount, Meta(description="Answers kept in this process, for all models; the least recently used go first.")
    ] = 256 << 20
    max_entry_bytes: Annotated[ByteCount, Meta(description="Largest answer that is kept.")] = 1 << 20
    shared: Annotated[
        Literal["auto", "off"], Meta(description="Answers are shared with other processes, where a store is named.")
    ] = "auto"
    store: Annotated[
        str | None, Meta(description="URL of a Redis or Valkey for shared answers; none: the store of jobs, if named.")
    ] = None
    store_bytes: Annotated[
        ByteCount,
        Meta(
            description="Answers kept in the store, of all that share it, each with 1000 bytes for what it takes "
            "there beside its value; the least recently used go first."
        ),
    ] = 256 << 20
    store_timeout_ms: Annotated[
        Positive, Meta(description="Longest time for a call to the store; then it is as if nothing was there.")
    ] = 100.0


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One model. Class attributes, `model.toml`, `[models.NAME]`, environment, flags: later wins."""

    instances: Annotated[
        Copies | Auto | None,
        Meta(description="Loaded copies, a process each; none: one per core within memory; auto: by measurement."),
    ] = None
    threads: Annotated[Copies | Auto, Meta(description="Threads of each instance; auto: by measurement.")] = 1
    max_batch_rows: Annotated[BatchRows, Meta(description="Most rows in one batch.")] = 256
    max_queue_delay_ms: Annotated[
        Delay, Meta(description="How long a row may wait for company while an instance is free.")
    ] = 0.0
    max_queue_rows: Annotated[Count, Meta(description="Most rows waiting; more are refused.")] = 10_000
    max_queue_bytes: Annotated[ByteCount, Meta(description="Most bytes waiting; more are refused.")] = 256 << 20
    slo_ms: Annotated[Positive | None, Meta(description="Timeout of a request that names none; none: 30 seconds.")] = (
        None
    )
    batching: Annotated[Literal["auto", "off"], Meta(description="auto: rows share a batch where that pays.")] = "auto"
    pad: Annotated[
        bool | None, Meta(description="Pad a variable axis with zeros so that rows share a batch; none: no.")
    ] = None
    pad_multiple: Annotated[
        BatchRows | None,
        Meta(description="Pad to a multiple of this, so that there are fewer shapes; none: 8 for OpenVINO, else 1."),
    ] = None
    deterministic: Annotated[bool, Meta(description="Equal rows get equal answers, whatever their batch.")] = False
    cache: Annotated[
        Literal["off", "exact", "semantic"],
        Meta(description="exact: equal requests are answered from the cache; semantic: texts that ask the same, too."),
    ] = "off"
    cache_ttl_s: Annotated[Positive, Meta(description="How long a cached answer is served.")] = 3600.0
    cache_stale_s: Annotated[
        NotNegative, Meta(description="How much longer it is served while it is computed anew.")
    ] = 0.0
    cache_shared: Annotated[bool, Meta(description="API keys share cached answers; false: each has its own.")] = False
    semantic_embedder: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Served model that makes vectors of texts: NAME, or NAME/VERSION."),
    ] = None
    semantic_calibration: Annotated[
        Path | None, Meta(description="File that forebay cache calibrate wrote: the threshold, and what it holds for.")
    ] = None
    semantic_threshold: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Least cosine of two texts with one answer; none: the calibrated one, without one 0.98."),
    ] = None
    semantic_uncalibrated: Annotated[
        bool, Meta(description="Serve near texts without a calibration, or below its threshold: answers may be wrong.")
    ] = False
    semantic_index: Annotated[
        Literal["memory", "usearch", "store"],
        Meta(
            description="Where texts are looked up; usearch: large partitions in a graph; store: in the cache's store."
        ),
    ] = "memory"
    semantic_max_text_bytes: Annotated[
        Annotated[int, Meta(ge=64)], Meta(description="Longer texts are not looked up.")
    ] = 500
    semantic_timeout_ms: Annotated[
        Positive, Meta(description="Longest time for looking up, embedding included; then the model runs.")
    ] = 1000.0
    semantic_shadow_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Meta(description="Share of near hits that also run the model, to compare.")
    ] = 0.05
    semantic_max_false_hit_rate: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="Share of wrong ones among those compared above which such hits are not served any more."),
    ] = 0.05
    cascade: Annotated[
        Path | None,
        Meta(description="File that forebay cascade wrote: a student answers what it is sure of; none: it does not."),
    ] = None
    cascade_student: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Served model that is the student: NAME, or NAME/VERSION; none: as named in that file."),
    ] = None
    cascade_shadow_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(description="Share of the student's answers that the model gives too, to compare; 0: nothing is watched."),
    ] = 0.02
    variants: Annotated[
        Path | None,
        Meta(description="File that forebay variants wrote: faster forms that answer under load; none: none does."),
    ] = None
    variant_min_accuracy: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Meta(description="Variants below this accuracy, as measured, never answer.")
    ] = 0.0
    variant_down_after_s: Annotated[
        NotNegative, Meta(description="How long there must be too much to do before a faster form answers.")
    ] = 0.1
    variant_up_after_s: Annotated[
        Positive, Meta(description="How long a better form must have had room before it answers again.")
    ] = 5.0
    variant_shadow_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(description="Share of the model's answers that a variant gives too, to compare; 0: nothing is watched."),
    ] = 0.01
    request_log: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(description="Share of answered requests that are written down with their answers; 0: none."),
    ] = 0.0
    request_log_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 16)],
        Meta(description="What they may take on disk, of all versions and API keys; the oldest go first."),
    ] = 256 << 20
    request_log_redact: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Function that says what of a row may be written: FILE.py:NAME, or MODULE:NAME."),
    ] = None
    request_log_except: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...] | None,
        Meta(description="API keys whose requests are never written; anonymous: those without a key."),
    ] = None
    weight: Annotated[Positive, Meta(description="Share of the machine, relative to other models.")] = 1.0
    memory_bytes: Annotated[ByteCount | None, Meta(description="Memory of one instance; none: measured.")] = None
    devices: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(min_length=1, description="Devices: cpu, cuda:0, tensorrt:0; instances are dealt to them in turn."),
    ] = ("cpu",)
    labels: Annotated[
        Path | None, Meta(description="File of class names, one a line, for the classification extension.")
    ] = None
    warm_up_s: Annotated[NotNegative, Meta(description="Longest time for measuring the model at load.")] = 2.0
    load_timeout_s: Annotated[
        Positive, Meta(description="Longest time for an instance to load and warm up; then it is killed.")
    ] = 300.0
    allow_pickle: Annotated[
        bool, Meta(description="Load .pkl, .pickle and .joblib files, which run code of whoever wrote them.")
    ] = False
    trusted_types: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...] | None,
        Meta(description="Types that a .skops file may make, besides those that skops trusts."),
    ] = None
    inference_precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Meta(description="What is computed in; bf16: OpenVINO, fp16: TensorRT; faster where there is hardware for it."),
    ] = "fp32"

    @property
    def default_timeout_s(self) -> float:
        """Seconds that a request without its own timeout gets."""
        return DEFAULT_TIMEOUT_S if self.slo_ms is None else self.slo_ms / 1000.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree. `models` holds the served models, by name."""

    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    jobs: JobSettings = JobSettings()
    cache: CacheSettings = CacheSettings()
    data_dir: Annotated[Path, Meta(description="Folder for what Forebay keeps, such as measured costs.")] = Path(
        ".forebay"
    )
    models: dict[str, ModelSettings] = {}
