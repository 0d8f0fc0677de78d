"""Pictures of 150 KB (uint8 224x224x3) into a small convolution: what large bodies cost. 16 connections, wrk."""

from __future__ import annotations

import numpy as np
from benchmarks.bench_run import MODELS, OURS, Bench, Contender, Json, throughput_result
from benchmarks.pools import (
    check_against,
    check_echo,
    image,
    images,
    plain_values,
    protocol_images,
    protocol_values,
    raw_images,
)
from benchmarks.workloads.mlp import expected_rows, wrk_turn
from benchmarks.workloads.one_client import model_time_ms

from forebay.core.tensors import Array

MODEL = MODELS / "images" / "images.onnx"
CONNECTIONS = 16
CHECKED = 512
NO_SERVER_BATCHES = (2, 8, 32)


def run(bench: Bench) -> Json:
    """Pictures a second of every contender, in turns, and the model's own time."""
    heads, tails = images()
    contenders = {contender.name: contender for contender in bench.chosen(image_contenders(bench, heads, tails))}
    unused = bench.scratch / "none.json"
    unused.write_text("[]")

    def loop(batch: int, seconds: float) -> float:
        return bench.no_server("images", MODEL, unused, seconds, batch, bench.cores)

    best = max(NO_SERVER_BATCHES, key=lambda batch: loop(batch, 1.0))
    loops = {"no server, batch 1": 1, f"no server, batch {best}": best}

    def turn(name: str) -> Json:
        if name in loops:
            return {"rate": loop(loops[name], bench.plan.wrk_s / 2)}
        return wrk_turn(bench, contenders[name], CONNECTIONS)

    names = [*contenders, *loops]
    result = throughput_result(
        bench.take_turns("images", names, turn, unit="pictures/s", rounds=bench.plan.rounds), "pictures/s"
    )
    result["model_ms"] = model_time_ms(MODEL, image(heads, tails, 0)[None])
    return result


def image_contenders(bench: Bench, heads: Array, tails: Array) -> list[Contender]:
    """Forebay, an ASGI application that only reads the body, mosec. LitServe takes no bare binary body."""
    pictures = np.stack([image(heads, tails, place) for place in range(CHECKED)])
    expected = {
        place: row
        for start in range(0, CHECKED, 32)
        for place, row in enumerate(expected_rows(MODEL, pictures[start : start + 32]), start)
    }
    env = bench.peer_env(MODEL=str(MODEL), WORKERS=str(bench.cores))
    return [
        Contender(
            OURS,
            bench.forebay(str(MODEL)),
            lambda endpoint: protocol_images(endpoint, "images", "x", heads, tails),
            check_against(expected, protocol_values, 1e-4),
        ),
        Contender(
            "raw-ASGI body reader on uvicorn",
            bench.asgi("read"),
            lambda endpoint: raw_images(endpoint, "/", heads, tails),
            check_echo(lambda place: b"{}"),
            env,
        ),
        Contender(
            "mosec, tuned",
            bench.peer("mosec_images.py"),
            lambda endpoint: raw_images(endpoint, "/inference", heads, tails),
            check_against(expected, plain_values("scores"), 1e-4),
            env,
        ),
    ]
