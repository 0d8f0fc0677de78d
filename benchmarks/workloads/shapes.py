"""Alternating shapes: 32 clients on the sleep model, rows of two lengths in turn, against one length only."""

from __future__ import annotations

import json

import numpy as np
from benchmarks.bench_run import OURS, ROOT, Bench, Contender, Json
from benchmarks.pools import protocol_json
from benchmarks.turns import closed, load_json

from forebay.bench.connection import Answer
from forebay.core.tensors import Array

MODEL = str(ROOT / "examples" / "sleep.py") + ":Sleep"
CLIENTS = 32
LENGTHS = (16, 24)
TIMEOUT_MS = 10_000.0
"""Long, so that the figure is about batching and not about refusals."""


def run(bench: Bench) -> Json:
    """Mean rows a batch with one length and with two, from the answers' own `explain` figures."""
    result: Json = {"unit": "rows a batch"}
    for label, lengths in (("one shape", LENGTHS[:1]), ("two shapes", LENGTHS)):
        result[label] = _mean_batch_rows(bench, label, lengths)
        bench.tell(f"shapes: {label}: {result[label]['mean_batch_rows']:.2f} rows a batch")
    result["share_of_one_shape"] = result["two shapes"]["mean_batch_rows"] / result["one shape"]["mean_batch_rows"]
    return result


def _mean_batch_rows(bench: Bench, label: str, lengths: tuple[int, ...]) -> Json:
    rows = alternating_rows(lengths)
    shares: list[float] = []

    def check(place: int, answer: Answer) -> bool | None:
        message = json.loads(answer.body)
        # A row in a batch of n rows is one n-th of a batch: rows / sum of shares is the mean over batches.
        shares.append(1 / message["parameters"]["batch_rows"])
        return bool(np.isclose(message["outputs"][0]["data"][0], rows[place].sum(), rtol=1e-4, atol=1e-4))

    contender = Contender(
        OURS,
        bench.forebay(MODEL, "--set", "sleep.instances=1"),
        lambda endpoint: protocol_json(
            endpoint, "sleep", "x", "FP32", rows, timeout_ms=TIMEOUT_MS, parameters={"explain": True}
        ),
        check,
    )
    with bench.serve(contender) as (server, pool):
        load = closed(server, pool, clients=CLIENTS, warm_s=2.0, seconds=bench.plan.shapes_s, check=check)
    return {"mean_batch_rows": len(shares) / sum(shares), "load": load_json(load)}


def alternating_rows(lengths: tuple[int, ...], count: int = 10_000) -> list[Array]:
    """float64 [1, length], the lengths in turn."""
    generator = np.random.default_rng(0)
    return [np.round(generator.standard_normal((1, lengths[place % len(lengths)])), 4) for place in range(count)]
