"""MiniLM on texts of 5 to 200 words, lognormal; 32 clients, both cores. Our own clients, which check answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from benchmarks.bench_run import MODELS, OURS, ROOT, Bench, Contender, Json, throughput_result
from benchmarks.pools import (
    SplitPool,
    check_against,
    plain_json,
    plain_values,
    protocol_json,
    protocol_values,
    text_rows,
    texts,
)
from benchmarks.turns import closed, load_json
from tokenizers import Tokenizer

from forebay.bench.bodies import Endpoint
from forebay.core.tensors import Array

FOLDER = MODELS / "minilm"
MODEL = FOLDER / "minilm.onnx"
OURS_MODEL = str(ROOT / "examples" / "minilm" / "minilm.py") + ":MiniLM"
CLIENTS = 32
MAX_TOKENS = 256
NO_SERVER_BATCHES = (2, 4, 8, 32)
CHECKED = 128
"""So many of the first thousand texts have their answers computed beforehand (each takes 12 ms of a core)."""


def run(bench: Bench) -> Json:
    """Texts a second of every contender, in turns; the loop without a server takes part."""
    plan = bench.plan
    values = texts()
    contenders = {contender.name: contender for contender in bench.chosen(minilm_contenders(bench, values))}
    listed = bench.scratch / "texts.json"
    listed.write_text(json.dumps(values))

    def loop(batch: int, seconds: float) -> float:
        return bench.no_server("minilm", MODEL, listed, seconds, batch, bench.cores)

    best = max(NO_SERVER_BATCHES, key=lambda batch: loop(batch, plan.minilm_s / 4))
    loops = {"no server, batch 1": 1, f"no server, batch {best}": best}

    def turn(name: str) -> Json:
        if name in loops:
            return {"rate": loop(loops[name], plan.minilm_s)}
        return closed_turn(bench, contenders[name])

    names = [*contenders, *loops]
    taken = bench.take_turns("minilm", names, turn, unit="texts/s", rounds=plan.minilm_rounds)
    result = throughput_result(taken, "texts/s")
    result["words"] = word_counts(values)
    return result


def closed_turn(bench: Bench, contender: Contender) -> Json:
    """Start, warm up, measure, stop. A slow peer needs a batch or two before it is in its stride: 3 s of warm-up."""
    with bench.serve(contender) as (server, pool):
        result = closed(server, pool, clients=CLIENTS, warm_s=3.0, seconds=bench.plan.minilm_s, check=contender.check)
    if result.void:
        bench.tell(f"[red]void[/]: {result.void}")
    return {**load_json(result), "rate": result.throughput_per_s}


def minilm_contenders(bench: Bench, values: list[str]) -> list[Contender]:
    """Forebay with no knob touched, mosec tuned (a worker a core, no batching), mosec and LitServe at batch 32."""
    expected = expected_embeddings(values)
    plain = check_against(expected, plain_values("embedding"))

    tokenizer = str(FOLDER / "tokenizer.json")

    def env(style: str, workers: int) -> dict[str, str]:
        # One worker may use all cores by threads, a worker a core gets one thread each: the same threads in all.
        threads = str(bench.cores // workers)
        return bench.peer_env(MODEL=str(MODEL), TOKENIZER=tokenizer, STYLE=style, WORKERS=str(workers), THREADS=threads)

    def mosec(name: str, style: str, workers: int) -> Contender:
        def pool(endpoint: Endpoint) -> SplitPool:
            return plain_json(endpoint, "/inference", "text", values)

        return Contender(name, bench.peer("mosec_minilm.py"), pool, plain, env(style, workers))

    return [
        Contender(
            OURS,
            bench.forebay(OURS_MODEL),
            lambda endpoint: protocol_json(endpoint, "minilm", "text", "BYTES", text_rows(values)),
            check_against(expected, protocol_values),
        ),
        mosec("mosec, tuned", "tuned", bench.cores),
        mosec("mosec, as documented, batch 32", "documented", 1),
        mosec("mosec, a worker a core, batch 32", "documented", bench.cores),
        Contender(
            "LitServe, batch 32",
            bench.peer("litserve_minilm.py"),
            lambda endpoint: plain_json(endpoint, "/predict", "text", values),
            plain,
            env("", 1),
        ),
    ]


def expected_embeddings(values: list[str]) -> Mapping[int, Array]:
    """Embeddings of a random sample of the first thousand texts."""
    places = np.random.default_rng(1).choice(min(1000, len(values)), CHECKED, replace=False).tolist()
    return dict(zip(places, embeddings([values[place] for place in places]), strict=True))


def embeddings(values: Sequence[str]) -> list[Array]:
    """float32 [384] each, by onnxruntime directly, one text at a time."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    found: list[Array] = []
    for value in values:
        ids = np.array([tokenizer.encode(value).ids], dtype=np.int64)
        found.append(session.run(["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    return found


def word_counts(values: list[str]) -> Json:
    """Median, mean and extremes of the words a text."""
    counts = np.array([len(value.split()) for value in values])
    return {
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "lowest": int(counts.min()),
        "highest": int(counts.max()),
    }
