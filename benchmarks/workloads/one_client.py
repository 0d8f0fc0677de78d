"""One client alone on the small MLP: what the server adds to the model's own time, at the median."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from benchmarks.bench_run import Bench, Json, spread
from benchmarks.pools import mlp_inputs
from benchmarks.workloads.mlp import MODEL, mlp_contenders, wrk_turn

from forebay.core.tensors import Array

NAMES = ("Forebay", "mosec, tuned", "raw-ASGI echo on uvicorn")


def run(bench: Bench) -> Json:
    """Median latency of one connection of wrk, less the median time of the model's run."""
    inputs = mlp_inputs()
    contenders = {
        contender.name: contender
        for contender in bench.chosen(mlp_contenders(bench, inputs))
        if contender.name in NAMES
    }
    own_ms = model_time_ms(MODEL, inputs[:1].astype(np.float32))

    def turn(name: str) -> Json:
        figures = wrk_turn(bench, contenders[name], 1)
        model_ms = 0.0 if "echo" in name else own_ms
        return {**figures, "added_ms": figures["p50_ms"] - model_ms}

    taken = bench.take_turns("one client", list(contenders), turn, unit="req/s", rounds=bench.plan.rounds)
    return {
        "unit": "ms",
        "model_ms": own_ms,
        "added_ms": {name: spread([figures["added_ms"] for figures in turns]) for name, turns in taken.items()},
        "turns": taken,
    }


def model_time_ms(model: Path, row: Array, runs: int = 2000) -> float:
    """Median milliseconds of one run of a model on one row, single thread, no server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    times: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {name: row})
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)
