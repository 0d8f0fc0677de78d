"""Starting an engine: load one instance, learn what the model is and costs, then start the others."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from forebay.batching import Batcher, LatencyModel, Policy
from forebay.cache.semantic.policy import rules_for
from forebay.cascade.policy import rules_for as cascade_rules_for
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.engine import costs_file, frames
from forebay.engine.client import Tuning
from forebay.engine.instance import LoadPlan
from forebay.engine.kept_inputs import KeptInputs
from forebay.engine.memory import available_bytes
from forebay.engine.sizing import Finding
from forebay.models.artefact import Known, inspect
from forebay.models.signature import Signature
from forebay.models.source import LoadOptions, ModelSource
from forebay.telemetry.logs import fields

if TYPE_CHECKING:
    from forebay.engine.engine import Engine
from forebay.variants.policy import rules_for as variant_rules_for

log = logging.getLogger("forebay.engine")

TIMER_S = 0.001
"""uvloop's timers count whole milliseconds."""
MEMORY_SHARE = 0.8
"""Instances are started within this share of the memory that is available after the first one."""


@dataclass(slots=True)
class Plan:
    """What an engine is to be. `settings` are re-read once the model's own class attributes are known."""

    source: ModelSource
    settings: ModelSettings
    data_dir: Path
    shared_memory_bytes: int
    resolve: Callable[[dict[str, object]], ModelSettings]
    """Settings with the model's class attributes merged in."""
    pads: bool = False
    pad_multiple: int = 1
    """To what rows are filled up."""
    cores: int = 0
    found: Finding | None = None
    """What a measurement has found, where `instances` or `threads` is `auto`; None: not known yet."""
    known: Known | None = None
    """What was found of the model's files; None: they were not read yet."""

    @property
    def usable_cores(self) -> int:
        """Cores that this process may use."""
        return self.cores or len(os.sched_getaffinity(0))

    @property
    def is_auto(self) -> bool:
        """Whether the operator leaves instances or threads to measurement."""
        return "auto" in (self.settings.instances, self.settings.threads)

    @property
    def is_measured(self) -> bool:
        """Whether that is done: on a device it is not, since a second copy may not fit beside the one in service."""
        return self.is_auto and set(self.settings.devices) == {"cpu"}

    @property
    def instances(self) -> int:
        """How many are asked for, or were found to be best; 0: as many as there are cores for."""
        if isinstance(self.settings.instances, int):
            return self.settings.instances
        return self.found.chosen.instances if self.found is not None else 0

    @property
    def threads(self) -> int:
        """Threads of each instance."""
        if isinstance(self.settings.threads, int):
            return self.settings.threads
        return self.found.chosen.threads if self.found is not None else 1

    def reads_the_same(self) -> bool:
        """Whether what the model has read besides its own files is still what it was. Reads files."""
        return self.known is None or self.known.read is None or self.known.read.holds()


async def start_engine(engine: Engine) -> None:
    """Bring an engine up. Raises `SetupError` (`model_load_error`, `config_error`)."""
    plan = engine.plan
    began = time.monotonic()
    header, costs, latency = await _load_first(engine)
    settings = plan.settings
    plan.pads = bool(settings.pad) and header.batchable
    plan.pad_multiple = header.pad_multiple
    engine.digest = _told_digest(header, plan)
    engine.labels = await asyncio.to_thread(read_labels, settings.labels, plan.source)
    engine.label_file = settings.labels.name if settings.labels is not None else ""
    engine.signature, engine.platform = header.signature, header.platform
    engine.streams = header.streams
    engine.batchable = header.batchable and settings.batching == "auto"
    given = (engine.name, settings, engine.signature)
    if settings.cache == "semantic":
        engine.semantic = await asyncio.to_thread(rules_for, *given, streams=header.streams)
    engine.cascading = await asyncio.to_thread(cascade_rules_for, *given, streams=header.streams)
    engine.varying = await asyncio.to_thread(variant_rules_for, *given, streams=header.streams)
    if latency is None:
        latency = LatencyModel(settings.max_batch_rows)
        _learn(latency, header.costs, settings.max_batch_rows)
    engine.latency = latency
    engine.costs = costs
    wanted = await _wanted_instances(engine, plan)
    others = [engine.supervisor.start(number, _load_plan(plan, number, 0.0)) for number in range(1, wanted)]
    for other in await asyncio.gather(*others):
        compare_files(engine, other)
    policy = _policy(settings, engine.batchable, plan.pads, streams=header.streams)
    engine.open(Batcher(policy, latency, TIMER_S))
    if plan.is_auto:
        _note_tuning(engine, plan)
    _tell(engine, header, wanted, time.monotonic() - began)


def _told_digest(header: frames.ReadyHeader, plan: Plan) -> str:
    """Of the files, and of what answers depend on beside them: a row that is padded may get another one."""
    how = f"padded to {plan.pad_multiple}" if plan.pad_multiple > 1 else "padded"
    return hashlib.sha256(f"{how} {header.digest}".encode()).hexdigest() if plan.pads else header.digest


def compare_files(engine: Engine, header: frames.ReadyHeader) -> None:
    """One instance beside others. Where it was loaded from other files, as after a death once they had been replaced,
    an answer depends on who gives it, and the engine has no digest any more: nothing is kept or found under one."""
    if engine.digest and _told_digest(header, engine.plan) != engine.digest:
        engine.digest = ""
        log.warning(
            "an instance of %s was loaded from other files than those before it; until the model is loaded again, "
            "nothing of it is cached",
            engine.name,
            extra=fields(model=engine.name, digest=header.digest),
        )


async def _load_first(engine: Engine) -> tuple[frames.ReadyHeader, costs_file.CostsFile, LatencyModel | None]:
    """Load instance 0. A class that asks for other threads or devices than it was loaded with is loaded once more."""
    plan = engine.plan
    # A second engine of the same files: what the model has written beside them since is no part of it.
    if plan.known is None or not await asyncio.to_thread(plan.known.holds):
        plan.known = await asyncio.to_thread(inspect, plan.source, _load_options(plan.settings))
    digest, given = plan.known.digest, plan.found
    await _recall(engine, digest, given)
    while True:
        used, threads = plan.settings, plan.threads
        costs = costs_file.CostsFile(plan.data_dir, plan.source, digest, threads)
        latency = await asyncio.to_thread(costs.load, used.max_batch_rows)
        measure_s = 0.0 if latency is not None else used.warm_up_s
        header = await engine.supervisor.start(0, _load_plan(plan, 0, measure_s))
        plan.known = msgspec.structs.replace(plan.known, read=header.read)
        plan.settings = plan.resolve(dict(header.settings))
        await _recall(engine, digest, given)
        if (plan.threads, plan.settings.devices[0]) == (threads, used.devices[0]):
            return header, costs, latency
        await engine.supervisor.stop(0)


async def _recall(engine: Engine, digest: str, given: Finding | None) -> None:
    """What was found by an earlier measurement under the settings as they are known now; what is given comes first."""
    plan = engine.plan
    engine.choices = None
    plan.found = given
    if plan.is_measured:
        cores = plan.usable_cores
        engine.choices = costs_file.ChoiceFile(plan.data_dir, plan.source, digest, plan.settings, cores)
        plan.found = given or await asyncio.to_thread(engine.choices.load)


async def _wanted_instances(engine: Engine, plan: Plan) -> int:
    fixed = plan.settings.instances
    if isinstance(fixed, int):
        return fixed
    if plan.found is None:
        return await asyncio.to_thread(_default_instances, engine, plan)
    # There may be less memory now than when it was measured.
    return min(plan.found.chosen.instances, 1 + await asyncio.to_thread(room_for, engine))


def _note_tuning(engine: Engine, plan: Plan) -> None:
    if not plan.is_measured:
        devices = ", ".join(plan.settings.devices)
        reason = f"not measured on {devices}, where a second copy may not fit beside the one in service"
        engine.tuning = Tuning("settled", reason=reason)
        log.info("model %s: auto is the default: %s", engine.name, reason, extra=fields(model=engine.name))
        return
    engine.kept_inputs = KeptInputs()
    engine.tuning = Tuning("waiting") if plan.found is None else tuning_of(plan.found)


def tuning_of(found: Finding) -> Tuning:
    """What is told of a finding."""
    rates = {str(size): rate for size, rate in sorted(found.rates.items())}
    return Tuning("settled", str(found.chosen), rates, found.reason)


def read_labels(file: Path | None, source: ModelSource) -> tuple[str, ...]:
    """The class names in a model's label file, one a line. A relative path that no settings file has made absolute
    counts from the model's folder.

    Raises `SetupError` (`config_error`) where it cannot be read.
    """
    if file is None:
        return ()
    path = Path(source.path).parent / file
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SetupError(
            f"model {source.name}: cannot read labels {str(path)!r}: {reason}; "
            f"write one class name a line, or leave {source.name}.labels away"
        ) from error


def _load_plan(plan: Plan, number: int, measure_s: float) -> LoadPlan:
    settings = plan.settings
    device = settings.devices[number % len(settings.devices)]
    return LoadPlan(
        plan.source,
        device,
        plan.threads,
        settings.max_batch_rows,
        measure_s,
        plan.shared_memory_bytes,
        settings.load_timeout_s,
        _load_options(settings),
        plan.known,
    )


def _load_options(settings: ModelSettings) -> LoadOptions:
    return LoadOptions(
        settings.max_batch_rows,
        settings.deterministic,
        settings.allow_pickle,
        tuple(settings.trusted_types or ()),
        settings.inference_precision,
        settings.pad,
        settings.pad_multiple,
    )


def _learn(latency: LatencyModel, costs: list[tuple[int, int, float]], max_rows: int) -> None:
    latency.tabulate_to(max_rows)
    for rows, length, seconds in costs:
        if rows <= max_rows:
            latency.observe(rows, length, seconds)


def _policy(settings: ModelSettings, batchable: bool, pads: bool, *, streams: bool) -> Policy:
    return Policy(
        max_batch_rows=settings.max_batch_rows,
        max_queue_delay_s=settings.max_queue_delay_ms / 1e3,
        max_queue_rows=settings.max_queue_rows,
        max_queue_bytes=max(1, settings.max_queue_bytes),
        batching=batchable,
        pad=pads,
        hands_over_early=not streams,
    )


def _default_instances(engine: Engine, plan: Plan) -> int:
    """One a core (or a device), as far as memory goes, by what the first instance holds."""
    devices = plan.settings.devices
    if devices != ("cpu",):
        return len(devices)
    return min(max(1, plan.usable_cores // plan.threads), 1 + room_for(engine))


def room_for(engine: Engine, free_bytes: int | None = None) -> int:
    """How many more instances fit into the memory that is available, and into what is left of a limit; reads files."""
    need_bytes = engine.plan.settings.memory_bytes or _resident_bytes(engine.supervisor.instances[0].pid)
    rooms_bytes = [free_bytes] if free_bytes is not None else []
    if at_hand_bytes := available_bytes():
        rooms_bytes.append(int(at_hand_bytes * MEMORY_SHARE))
    if need_bytes and rooms_bytes:
        return max(0, min(rooms_bytes)) // need_bytes
    return sys.maxsize - 1


def _resident_bytes(pid: int) -> int:
    try:
        fields_ = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields_[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def describe(signature: Signature) -> str:
    """A signature on one line, for the log."""
    ins = ", ".join(f"{s.name} {s.datatype}{signature.wire_shape(s)}" for s in signature.inputs)
    outs = ", ".join(f"{s.name} {s.datatype}{signature.wire_shape(s)}" for s in signature.outputs)
    return f"{ins} -> {outs}"


def _tell(engine: Engine, header: frames.ReadyHeader, instances: int, seconds: float) -> None:
    if engine.batchable:
        batching = f"batches of up to {engine.max_batch_rows} rows"
        if header.costs:
            batching += f", best about {engine.best_rows}"
    else:
        batching = f"no batching ({header.reason or 'set off'})"
    engine.facts["batching"] = batching
    log.info(
        "model %s version %s is ready: %s; %d instances, %s; %.1f s",
        engine.name,
        engine.version,
        describe(engine.signature),
        instances,
        batching,
        seconds,
        extra=fields(model=engine.name, version=engine.version, instances=instances, digest=header.digest),
    )
    if header.note:
        engine.facts["forms"] = header.note
        log.info("model %s: %s", engine.name, header.note, extra=fields(model=engine.name))
