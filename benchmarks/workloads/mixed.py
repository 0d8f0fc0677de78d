"""A light MLP client, alone and while twenty 1 MB JSON bodies a second arrive at the same server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from benchmarks.bench_run import OURS, ROOT, Bench, Contender, Json, spread
from benchmarks.pools import IMAGE_SHAPE, SplitPool, check_against, mlp_inputs, protocol_json, protocol_values
from benchmarks.servers import Server
from benchmarks.turns import load_json, open_loop
from benchmarks.workloads.images import MODEL as IMAGES_MODEL
from benchmarks.workloads.mlp import MODEL as MLP_MODEL
from benchmarks.workloads.mlp import expected_rows

from forebay.core.tensors import Array

CLIENT_RATE = 200.0
"""Requests a second of the MLP client, Poisson."""

BIG_RATE = 20.0
BIG_BODIES = 40
MLP_ROWS = 6500
"""Rows of 16 six-digit numbers in 1 MB of JSON, about."""


def run(bench: Bench) -> Json:
    """p99 of the MLP client alone, with big bodies to the image model, and with big bodies to the MLP itself."""
    inputs = mlp_inputs()
    expected = dict(enumerate(expected_rows(MLP_MODEL, inputs.astype(np.float32))))
    contender = Contender(
        OURS,
        bench.forebay(str(MLP_MODEL), str(IMAGES_MODEL), "--set", "mlp.instances=1"),
        lambda endpoint: protocol_json(endpoint, "mlp", "x", "FP32", [row[None] for row in inputs]),
        check_against(expected, protocol_values),
    )
    runs: dict[str, list[Json]] = {"alone": [], "1 MB bodies to the image model": [], "1 MB bodies to the MLP": []}
    for round_number in range(1, bench.plan.mixed_rounds + 1):
        with bench.serve(contender) as (server, pool):
            files = big_body_files(bench.scratch, server)
            for label, rounds in runs.items():
                rounds.append(_client(bench, server, pool, contender, files.get(label)))
                p99_ms = rounds[-1]["latency_ms"]["p99"]
                bench.tell(f"mixed, round {round_number}: {label:32} p99 {p99_ms:8.2f} ms")
    added = {
        label: spread(
            [b["latency_ms"]["p99"] - a["latency_ms"]["p99"] for a, b in zip(runs["alone"], rounds, strict=True)]
        )
        for label, rounds in runs.items()
        if label != "alone"
    }
    p99 = {label: spread([figures["latency_ms"]["p99"] for figures in rounds]) for label, rounds in runs.items()}
    return {"unit": "ms", "p99_ms": p99, "added_p99_ms": added, "runs": runs}


def _client(bench: Bench, server: Server, pool: SplitPool, contender: Contender, big: Path | None) -> Json:
    seconds, warm_s = bench.plan.mixed_s, 1.0
    sender = None
    if big is not None:
        command = [sys.executable, "-m", "benchmarks.sender", str(big), str(server.endpoint.port), str(BIG_RATE)]
        sender = subprocess.Popen([*command, str(seconds + 2)], cwd=ROOT, stdout=subprocess.PIPE)
    result, _ = open_loop(
        server,
        pool,
        process="poisson",
        rate=CLIENT_RATE,
        warm_s=warm_s,
        seconds=seconds,
        slo_ms=None,
        late_bound_ms=10.0,
        check=contender.check,
    )
    figures = load_json(result)
    if sender is not None:
        output, _ = sender.communicate(timeout=60)
        figures["big_bodies"] = json.loads(output)
    return figures


def big_body_files(scratch: Path, server: Server) -> dict[str, Path]:
    """Pools of about 1 MB of JSON each: two pictures for the image model, 6,500 rows for the MLP."""
    generator = np.random.default_rng(3)
    pictures: list[Array] = [
        generator.integers(0, 256, size=(2, *IMAGE_SHAPE), dtype=np.uint8) for _ in range(BIG_BODIES)
    ]
    rows = [mlp_inputs(MLP_ROWS, seed) for seed in range(BIG_BODIES)]
    to_images = protocol_json(server.endpoint, "images", "x", "UINT8", pictures)
    to_mlp = protocol_json(server.endpoint, "mlp", "x", "FP32", rows)
    return {
        "1 MB bodies to the image model": to_images.write(scratch / "big-images.bin"),
        "1 MB bodies to the MLP": to_mlp.write(scratch / "big-mlp.bin"),
    }
