"""Open loop on MiniLM (SLO 500 ms) and on the sleep model (SLO 105 ms): Poisson and bursts, up to twice the capacity.

The deadline goes out with each request as `timeout`. The generator runs on the same cores as the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
from benchmarks.bench_run import OURS, Bench, Contender, Json
from benchmarks.pools import SplitPool, check_against, protocol_json, protocol_values, text_rows, texts
from benchmarks.servers import Server
from benchmarks.turns import closed, load_json, open_loop
from benchmarks.workloads.minilm import CLIENTS, OURS_MODEL, expected_embeddings
from benchmarks.workloads.shapes import MODEL as SLEEP_MODEL

from forebay.bench.arrivals import Process
from forebay.core.tensors import Array

PROCESSES: tuple[Process, ...] = ("poisson", "onoff")
SLEEP_CAPACITY = 64 / 0.084
"""Rows a second of one instance: 64 rows in 84 ms."""


@dataclass(frozen=True)
class Subject:
    """A model under open load. `capacity` is requests a second; 0: the highest closed-loop rate, measured first."""

    name: str
    slo_ms: float
    contender: Contender
    capacity: float = 0.0


def run(bench: Bench) -> Json:
    """Goodput at each load, and what overload keeps of the best one at loads up to 1."""
    return {subject.name: _subject(bench, subject) for subject in (sleep_subject(bench), minilm_subject(bench))}


def sleep_subject(bench: Bench) -> Subject:
    """20 ms a batch and 1 ms a row, at most 64 rows."""
    rows = list(np.round(np.random.default_rng(0).standard_normal((10_000, 1, 16)), 4))
    expected: Mapping[int, Array] = {place: row.sum(axis=1) for place, row in enumerate(rows)}
    contender = Contender(
        OURS,
        bench.forebay(SLEEP_MODEL, "--set", "sleep.instances=1"),
        lambda endpoint: protocol_json(endpoint, "sleep", "x", "FP32", rows, timeout_ms=105.0),
        check_against(expected, protocol_values),
    )
    return Subject("sleep", 105.0, contender, SLEEP_CAPACITY)


def minilm_subject(bench: Bench) -> Subject:
    """The texts of the closed-loop workload."""
    values = texts()
    contender = Contender(
        OURS,
        bench.forebay(OURS_MODEL),
        lambda endpoint: protocol_json(endpoint, "minilm", "text", "BYTES", text_rows(values), timeout_ms=500.0),
        check_against(expected_embeddings(values), protocol_values),
    )
    return Subject("minilm", 500.0, contender)


def late_bound_ms(slo_ms: float) -> float:
    """A run whose generator sent later than this at p99 is void: 5 % of the SLO."""
    return slo_ms / 20


def _subject(bench: Bench, subject: Subject) -> Json:
    runs: list[Json] = []
    with bench.serve(subject.contender) as (server, pool):
        capacity = subject.capacity or _closed_rate(bench, subject, server, pool)
        bench.tell(f"open loop, {subject.name}: 1.0x is {capacity:.1f} requests/s")
        for round_number in range(bench.plan.open_rounds):
            for process in PROCESSES:
                for load in bench.plan.open_loads:
                    runs.append(_run(bench, subject, server, pool, process, load, load * capacity, round_number))
    return {
        "slo_ms": subject.slo_ms,
        "late_bound_ms": late_bound_ms(subject.slo_ms),
        "capacity": capacity,
        "runs": runs,
        "summary": {process: summary([run for run in runs if run["process"] == process]) for process in PROCESSES},
    }


def _closed_rate(bench: Bench, subject: Subject, server: Server, pool: SplitPool) -> float:
    rates = [
        closed(
            server, pool, clients=CLIENTS, warm_s=3.0, seconds=bench.plan.open_s, check=subject.contender.check
        ).throughput_per_s
        for _ in range(2)
    ]
    return max(rates)


def _run(
    bench: Bench,
    subject: Subject,
    server: Server,
    pool: SplitPool,
    process: Process,
    load: float,
    rate: float,
    round_number: int,
) -> Json:
    cpu_before = server.cpu_s()
    result, _ = open_loop(
        server,
        pool,
        process=process,
        rate=rate,
        warm_s=2.0,
        seconds=bench.plan.open_s,
        slo_ms=subject.slo_ms,
        late_bound_ms=late_bound_ms(subject.slo_ms),
        check=subject.contender.check,
        seed=round_number,
    )
    figures = load_json(result)
    figures.update(process=process, load=load, round=round_number, server_cpu_s=server.cpu_s() - cpu_before)
    refusal = f", refusal p99 {result.refusal_ms.p99:.1f} ms" if result.refusal_ms else ""
    late = result.lateness_ms.p99 if result.lateness_ms else 0.0
    bench.tell(
        f"open loop, {subject.name}, {process:7} {load:.2f}x: goodput {result.goodput_per_s:7.1f}/s of "
        f"{result.offered_per_s:7.1f}/s; late {result.late}, 503 {result.refused}, 504 {result.deadline}, "
        f"errors {result.errors}{refusal}; generator {result.cpu_share:.0%} of a core, late {late:.1f} ms"
        + (f" [red]VOID: {result.void}[/]" if result.void else "")
    )
    return figures


def summary(runs: list[Json]) -> Json:
    """Of one arrival process: the median goodput by load, and how the highest load compares with the best up to 1."""
    valid = [run for run in runs if not run["void"]]
    loads = sorted({run["load"] for run in valid})
    goodput = {load: median(run["goodput_per_s"] for run in valid if run["load"] == load) for load in loads}
    within = [value for load, value in goodput.items() if load <= 1.0]
    overload = [run for run in valid if run["load"] > 1.0]
    if not within or not overload:
        return {
            "goodput_per_s": {str(load): value for load, value in goodput.items()},
            "void_runs": len(runs) - len(valid),
        }
    refusals = [run["refusal_ms"]["p99"] for run in overload if run["refusal_ms"]]
    return {
        "goodput_per_s": {str(load): value for load, value in goodput.items()},
        "kept_in_overload": goodput[max(loads)] / max(within),
        "refusal_p99_ms": max(refusals) if refusals else None,
        "deadline_share": max(run["deadline"] / run["sent"] for run in overload),
        "late_share": max(run["late"] / run["sent"] for run in overload),
        "void_runs": len(runs) - len(valid),
    }
