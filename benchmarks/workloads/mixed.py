"""A light MLP client, alone and while twenty 1 MB JSON bodies a second arrive at the same server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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

LATE_BOUND_MS = 5.0
"""A run whose generator sent later than this at p99 is void."""

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
                void = f" [red]VOID: {rounds[-1]['void']}[/]" if rounds[-1]["void"] else ""
                bench.tell(f"mixed, round {round_number}: {label:32} p99 {p99_ms:8.2f} ms{void}")
    return {"unit": "ms", "p99_ms": p99_spreads(runs), "added_p99_ms": added_p99(runs), "runs": runs}


def p99_spreads(runs: Mapping[str, list[Json]]) -> Json:
    """The client's p99 by load, over the valid runs."""
    valid = {label: [run["latency_ms"]["p99"] for run in rounds if not run["void"]] for label, rounds in runs.items()}
    return {label: spread(values) for label, values in valid.items() if values}


def added_p99(runs: Mapping[str, list[Json]]) -> Json:
    """What each load adds to the p99 alone, round by round; a round with a void run on either side is left out."""
    added: Json = {}
    for label, rounds in runs.items():
        pairs = zip(runs["alone"], rounds, strict=True)
        values = [b["latency_ms"]["p99"] - a["latency_ms"]["p99"] for a, b in pairs if not a["void"] and not b["void"]]
        if label != "alone" and values:
            added[label] = spread(values)
    return added


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
        late_bound_ms=LATE_BOUND_MS,
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
