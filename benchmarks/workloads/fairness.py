"""Two models on one server: what one at three times its capacity does to the other, and whether weights are kept.

The light model gets requests at 35 % of its fair share, half the machine, in an open loop: alone, then while another
generator sends the heavy one three times what it can do. Then the other way round: a cheap model that wrk keeps as busy
as it gets, over 128 connections. Then two copies of one model, both overloaded, at weights 1:1 and 3:1. The generators
share the server's cores.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.bench_run import OURS, ROOT, Bench, Contender, Json, spread
from benchmarks.pools import SplitPool, images, mlp_inputs, protocol_images, protocol_json, text_rows, texts
from benchmarks.servers import Server
from benchmarks.turns import closed, load_json, open_loop, parse_wrk, wrk_command
from benchmarks.workloads.images import MODEL as IMAGES_MODEL
from benchmarks.workloads.minilm import OURS_MODEL as MINILM_MODEL
from benchmarks.workloads.mlp import MODEL as MLP_MODEL
from benchmarks.workloads.shapes import MODEL as SLEEP_MODEL

from forebay.bench.bodies import Endpoint

LONG_FILE = ROOT / "benchmarks" / "long_model.py"
LONG_MODEL = f"{LONG_FILE}:Long"
OVERLOAD = 3.0
LIGHT_SHARE = 0.35
"""Of the light model's fair share, which is half of what it can do alone."""
LIGHT_RATE_MOST = 1000.0
"""Requests a second: more than that is the generator's own load on these cores."""
CLIENTS = 32
RUSH_CONNECTIONS = 128
LATE_BOUND_MS = 5.0
OTHERS_MOST = 0.15
"""Cores that programs other than these may use in a round that counts."""
WEIGHTS = ((1.0, 1.0), (3.0, 1.0))
WEIGHED_TIMEOUT_MS = 500.0


@dataclass(frozen=True)
class Subject:
    """A model under load: how to serve it, and its requests by endpoint and timeout."""

    name: str
    model: str
    pool: Callable[[Endpoint, float], SplitPool]
    timeout_ms: float


def subjects() -> dict[str, Subject]:
    """Every model that takes part, by name."""
    values = texts(2000)
    heads, tails = images()
    vectors = [row[None] for row in mlp_inputs(5000)]
    ones = [np.full((1, 1), place, np.float32) for place in range(100)]
    rows = list(np.round(np.random.default_rng(0).standard_normal((1000, 1, 16)), 4))

    def of_texts(endpoint: Endpoint, timeout_ms: float) -> SplitPool:
        return protocol_json(endpoint, "minilm", "text", "BYTES", text_rows(values), timeout_ms=timeout_ms)

    def of_images(endpoint: Endpoint, timeout_ms: float) -> SplitPool:
        return protocol_images(endpoint, "images", "x", heads, tails)

    def of_vectors(endpoint: Endpoint, timeout_ms: float) -> SplitPool:
        return protocol_json(endpoint, "mlp", "x", "FP32", vectors, timeout_ms=timeout_ms)

    def of_ones(endpoint: Endpoint, timeout_ms: float) -> SplitPool:
        return protocol_json(endpoint, "long", "x", "FP32", ones, timeout_ms=timeout_ms)

    def of_rows(endpoint: Endpoint, timeout_ms: float) -> SplitPool:
        return protocol_json(endpoint, "sleep", "x", "FP32", rows, timeout_ms=timeout_ms)

    found = (
        Subject("minilm", MINILM_MODEL, of_texts, 500.0),
        Subject("images", str(IMAGES_MODEL), of_images, 500.0),
        Subject("mlp", str(MLP_MODEL), of_vectors, 500.0),
        Subject("long", LONG_MODEL, of_ones, 500.0),
        Subject("sleep", SLEEP_MODEL, of_rows, 300.0),
    )
    return {subject.name: subject for subject in found}


PAIRS = (("minilm", "images"), ("long", "minilm"), ("long", "mlp"), ("sleep", "mlp"))
"""The heavy one and the light one: short batches, long ones, ones that wait without computing."""
RUSHED = ("mlp", "minilm")
"""The one that wrk keeps busy, and the light one."""


def run(bench: Bench) -> Json:
    """p99 of the light one beside the heavy one over alone, for each pair; and rates by weight."""
    known = subjects()
    pairs = {f"{heavy} and {light}": _pair(bench, known[heavy], known[light]) for heavy, light in PAIRS}
    heavy, light = RUSHED
    pairs[f"{heavy} by wrk and {light}"] = _pair(bench, known[heavy], known[light], rush=True)
    return {"pairs": pairs, "weights": [_weights(bench, weights) for weights in WEIGHTS]}


def _pair(bench: Bench, heavy: Subject, light: Subject, rush: bool = False) -> Json:
    """The figures of one pair. With `rush`, wrk sends the heavy one as many as are answered."""
    contender = Contender(
        OURS,
        bench.forebay(heavy.model, light.model),
        lambda endpoint: light.pool(endpoint, light.timeout_ms),
        lambda place, answer: None,
    )
    label = f"fairness, {heavy.name} and {light.name}"
    runs: dict[str, list[Json]] = {"alone": [], "beside": []}
    with bench.serve(contender) as (server, pool):
        heavy_pool = heavy.pool(server.endpoint, heavy.timeout_ms)
        file = heavy_pool.write(bench.scratch / f"{heavy.name}.bin")
        seconds = bench.plan.fair_s
        light_able_per_s, able_per_s = (
            closed(server, its, clients=CLIENTS, warm_s=2.0, seconds=seconds / 2, check=None).throughput_per_s
            for its in (pool, heavy_pool)
        )
        if rush:
            with _rushing(server, file, seconds / 2) as rushed:
                pass
            able_per_s = rushed["goodput_per_s"]
        light_rate = min(LIGHT_RATE_MOST, LIGHT_SHARE * light_able_per_s / 2)
        bench.tell(f"{label}: the first does {able_per_s:.0f}/s alone; the other gets {light_rate:.0f}/s")
        for number in range(bench.plan.fair_rounds):
            runs["alone"].append(_light(server, pool, light_rate, seconds, number))
            sending = (
                _rushing(server, file, seconds + 3)
                if rush
                else _sending(server, file, OVERLOAD * able_per_s, seconds + 3)
            )
            with sending as sent:
                runs["beside"].append(_light(server, pool, light_rate, seconds, number))
            runs["beside"][-1]["heavy"] = sent
            _tell(bench, label, runs)
    return {"light_rate_per_s": light_rate, **pair_result(runs["alone"], runs["beside"], able_per_s), "runs": runs}


def pair_result(alone: Sequence[Json], beside: Sequence[Json], able_per_s: float) -> Json:
    """The figures of one pair over its valid rounds; `able_per_s`: what the heavy one does alone."""
    rounds = [pair for pair in zip(alone, beside, strict=True) if not any(map(_void, pair))]
    return {
        "heavy_able_per_s": able_per_s,
        "p99_ratio": _spread([_p99(two) / _p99(one) for one, two in rounds]),
        "heavy_kept": _spread([two["heavy"]["goodput_per_s"] / able_per_s for _, two in rounds]),
        "heavy_deadline_share": _spread([two["heavy"]["deadline"] / two["heavy"]["sent"] for _, two in rounds]),
        "void_rounds": len(alone) - len(rounds),
    }


def _spread(values: list[float]) -> Json | None:
    return spread(values) if values else None


def _void(run: Json) -> bool:
    others = run["other_cores"] - (run["heavy"]["cpu_share"] if "heavy" in run else 0.0)
    return bool(run["void"]) or others > OTHERS_MOST


def _p99(run: Json) -> float:
    p99_ms: float = run["latency_ms"]["p99"]
    return p99_ms


def _light(server: Server, pool: SplitPool, rate: float, seconds: float, seed: int, warm_s: float = 2.0) -> Json:
    start, busy_s, server_s, own_s = time.perf_counter(), busy_core_s(), server.cpu_s(), time.process_time()
    result, _ = open_loop(
        server,
        pool,
        process="poisson",
        rate=rate,
        warm_s=warm_s,
        seconds=seconds,
        slo_ms=None,
        late_bound_ms=LATE_BOUND_MS,
        check=None,
        seed=seed,
    )
    figures = load_json(result)
    ours_s = server.cpu_s() - server_s + time.process_time() - own_s
    figures["other_cores"] = (busy_core_s() - busy_s - ours_s) / (time.perf_counter() - start)
    return figures


def busy_core_s() -> float:
    """Core seconds that the whole machine has worked, from /proc (Linux)."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _sending(server: Server, file: Path, rate: float, seconds: float) -> Iterator[Json]:
    """A generator in a process of its own beside the block; its figures are there when the block has ended."""
    command = [sys.executable, "-m", "benchmarks.sender", str(file), str(server.endpoint.port), str(rate), str(seconds)]
    figures: Json = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        yield figures
        output, _ = process.communicate(timeout=60)
    figures.update(json.loads(output))


@contextmanager
def _rushing(server: Server, file: Path, seconds: float) -> Iterator[Json]:
    """wrk beside the block, in a closed loop; its figures are there when the block has ended."""
    figures: Json = {}
    environ, began = {**os.environ, "BENCH_POOL": str(file)}, resource.getrusage(resource.RUSAGE_CHILDREN)
    command = wrk_command(server, RUSH_CONNECTIONS, seconds)
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        yield figures
        output, _ = process.communicate(timeout=60)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    core_s = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    found = parse_wrk(output, core_s / seconds)
    figures.update(
        goodput_per_s=found.rate,
        sent=found.answered + found.failed,
        deadline=0,
        cpu_share=found.generator_cpu,
        statuses={"200": found.answered, "failed": found.failed},
    )


def _tell(bench: Bench, label: str, runs: dict[str, list[Json]]) -> None:
    alone, beside = runs["alone"][-1], runs["beside"][-1]
    heavy = beside["heavy"]
    bench.tell(
        f"{label}: p99 alone {_p99(alone):.2f} ms, beside {_p99(beside):.2f} ms, {_p99(beside) / _p99(alone):.2f}x; "
        f"p50 {alone['latency_ms']['p50']:.2f} and {beside['latency_ms']['p50']:.2f}; generator late p99 "
        f"{alone['lateness_ms']['p99']:.1f} and {beside['lateness_ms']['p99']:.1f} ms; "
        f"others {alone['other_cores']:.2f} and {beside['other_cores'] - heavy['cpu_share']:.2f} cores; "
        f"light {beside['statuses']}; "
        f"heavy {heavy['goodput_per_s']:.0f}/s, {heavy['statuses']}"
    )


def _weights(bench: Bench, weights: tuple[float, float]) -> Json:
    """Two copies of the long model, each asked for more than all cores can do: what each gets, over the sum."""
    names = ("first", "second")
    models: list[str] = []
    for name in names:
        file = bench.scratch / f"{name}.py"
        file.write_text(LONG_FILE.read_text().replace("class Long(", f"class {name.title()}("))
        models.append(f"{file}:{name.title()}")
    ones = [np.full((1, 1), place, np.float32) for place in range(100)]

    def pool_of(endpoint: Endpoint, name: str) -> SplitPool:
        return protocol_json(endpoint, name, "x", "FP32", ones, timeout_ms=WEIGHED_TIMEOUT_MS)

    settings = [f"--set={name}.weight={weight}" for name, weight in zip(names, weights, strict=True)]
    contender = Contender(
        OURS,
        bench.forebay(*models, *settings),
        lambda endpoint: pool_of(endpoint, names[0]),
        lambda place, answer: None,
    )
    with bench.serve(contender) as (server, pool):
        able = closed(server, pool, clients=CLIENTS, warm_s=2.0, seconds=bench.plan.fair_s / 2, check=None)
        other = pool_of(server.endpoint, names[1])
        file = other.write(bench.scratch / "second.bin")
        rate = 1.5 * able.throughput_per_s
        with _sending(server, file, rate, bench.plan.fair_s + 3) as second:
            first = _light(server, pool, rate, bench.plan.fair_s, 1)
    rates = first["goodput_per_s"], second["goodput_per_s"]
    share = rates[0] / sum(rates)
    bench.tell(f"fairness, weights {weights[0]:g}:{weights[1]:g}: {rates[0]:.0f} and {rates[1]:.0f}/s, {share:.2f}")
    return {"weights": list(weights), "rates_per_s": list(rates), "first_share": share}
