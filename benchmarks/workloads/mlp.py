"""The small MLP: 16 floats in, 3 out, 64 connections, one instance. wrk, with a checking client beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from benchmarks.bench_run import MODELS, OURS, Bench, Contender, Json, throughput_result
from benchmarks.pools import (
    check_against,
    check_echo,
    mlp_inputs,
    plain_json,
    plain_values,
    protocol_json,
    protocol_values,
)
from benchmarks.turns import wrk

from forebay.bench.bodies import Endpoint
from forebay.core.tensors import Array

MODEL = MODELS / "mlp" / "mlp.onnx"
CONNECTIONS = 64
NO_SERVER_BATCHES = (32, 128, 512)


def run(bench: Bench) -> Json:
    """Requests a second of every contender, in turns; the loop without a server takes part."""
    inputs = mlp_inputs()
    contenders = {contender.name: contender for contender in bench.chosen(mlp_contenders(bench, inputs))}
    rows = bench.scratch / "mlp-rows.json"
    rows.write_text(json.dumps(inputs.tolist()))
    best = max(NO_SERVER_BATCHES, key=lambda batch: bench.no_server("mlp", MODEL, rows, 1.0, batch, bench.cores))
    loops = {"no server, batch 1": 1, f"no server, batch {best}": best}

    def turn(name: str) -> Json:
        if name in loops:
            return {"rate": bench.no_server("mlp", MODEL, rows, bench.plan.wrk_s / 2, loops[name], bench.cores)}
        return wrk_turn(bench, contenders[name], CONNECTIONS)

    names = [*contenders, *loops]
    return throughput_result(bench.take_turns("mlp", names, turn, unit="req/s", rounds=bench.plan.rounds), "req/s")


def wrk_turn(bench: Bench, contender: Contender, connections: int) -> Json:
    """Start, warm up, measure, stop."""
    with bench.serve(contender) as (server, pool):
        pool_file = pool.write(bench.scratch / "pool.bin")
        plan = bench.plan
        figures = wrk(
            server,
            pool,
            pool_file,
            connections=connections,
            warm_s=plan.warm_s,
            seconds=plan.wrk_s,
            check=contender.check,
        )
    return figures.as_json()


def mlp_contenders(bench: Bench, inputs: Array) -> list[Contender]:
    """Forebay, mosec tuned and as documented, LitServe, the bare ASGI echo."""
    expected = dict(enumerate(expected_rows(MODEL, inputs.astype(np.float32))))
    plain = check_against(expected, plain_values("y"))
    values: Sequence[list[float]] = inputs.tolist()

    def env(style: str = "") -> dict[str, str]:
        return bench.peer_env(MODEL=str(MODEL), STYLE=style)

    echo_pool = plain_json(Endpoint("127.0.0.1", 1), "/", "x", values)
    return [
        Contender(
            OURS,
            bench.forebay(str(MODEL), "--set", "mlp.instances=1"),
            lambda endpoint: protocol_json(endpoint, "mlp", "x", "FP32", [row[None] for row in inputs]),
            check_against(expected, protocol_values),
        ),
        Contender(
            "mosec, tuned",
            bench.peer("mosec_mlp.py"),
            lambda endpoint: plain_json(endpoint, "/inference", "x", values),
            plain,
            env("tuned"),
        ),
        Contender(
            "mosec, as documented",
            bench.peer("mosec_mlp.py"),
            lambda endpoint: plain_json(endpoint, "/inference", "x", values),
            plain,
            env("documented"),
        ),
        Contender(
            "LitServe",
            bench.peer("litserve_mlp.py"),
            lambda endpoint: plain_json(endpoint, "/predict", "x", values),
            plain,
            env(),
        ),
        Contender(
            "raw-ASGI echo on uvicorn",
            bench.asgi("echo"),
            lambda endpoint: plain_json(endpoint, "/", "x", values),
            check_echo(lambda place: echo_pool[place].partition(b"\r\n\r\n")[2]),
            env(),
        ),
    ]


def expected_rows(model: Path, inputs: Array) -> Array:
    """The answers, by onnxruntime directly."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows: Array = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return rows
