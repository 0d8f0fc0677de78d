"""XGBoost, 300 trees of depth 6: one row without a server, native and as chosen; then over HTTP, 64 connections."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.bench_run import OURS, Bench, Contender, Json, spread, throughput_result
from benchmarks.pools import check_against, plain_json, protocol_json
from benchmarks.workloads.mlp import wrk_turn

from forebay.bench.bodies import DIFFERENT_BODIES
from forebay.bench.connection import Answer
from forebay.core.tensors import Array
from forebay.models.source import open_source
from forebay.runtimes.port import load_runtime

TREES, DEPTH, FEATURES = 300, 6, 28
TRAINED_ROWS = 20_000
CONNECTIONS = 64
ALONE_ROWS = 2_000
"""Different rows without a server; on two shared cores OpenMP's threads take milliseconds for some of them."""
NATIVE, NATIVE_ONE = "Booster.inplace_predict", "Booster.inplace_predict, 1 thread"
CHOSEN = "Forebay's form, 1 thread"


def run(bench: Bench) -> Json:
    """Microseconds a row without a server, and requests a second of every contender, in turns."""
    model, inputs = build(bench.scratch)
    alone = _alone(bench, model, inputs[:ALONE_ROWS].astype(np.float32))
    contenders = {contender.name: contender for contender in bench.chosen(tree_contenders(bench, model, inputs))}
    taken = bench.take_turns(
        "trees",
        list(contenders),
        lambda name: wrk_turn(bench, contenders[name], CONNECTIONS),
        unit="req/s",
        rounds=bench.plan.rounds,
    )
    return {**throughput_result(taken, "req/s"), "alone": alone}


def build(folder: Path) -> tuple[Path, Array]:
    """Train on one part of a made-up set; the other part is asked for, float64 of six digits after the point."""
    import xgboost
    from sklearn.datasets import make_classification

    x, y = make_classification(
        TRAINED_ROWS + DIFFERENT_BODIES, FEATURES, n_informative=14, n_redundant=6, flip_y=0.05, random_state=0
    )
    path = folder / "trees.ubj"
    data = xgboost.DMatrix(x[:TRAINED_ROWS].astype(np.float32), y[:TRAINED_ROWS])
    parameters = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.1}
    xgboost.train(parameters, data, TREES).save_model(path)
    return path, np.round(x[TRAINED_ROWS:], 6)


def _alone(bench: Bench, model: Path, rows: Array) -> Json:
    """Each row once, a call each, in turns; the answers are compared. Median microseconds a call."""
    import xgboost

    runtime = load_runtime(open_source(str(model)), "cpu", 1)
    usual, single = xgboost.Booster(model_file=model), xgboost.Booster(model_file=model)
    single.set_param({"nthread": 1})
    calls: dict[str, Callable[[Array], Array]] = {
        CHOSEN: lambda x: runtime.run({"input": x}, 1)[1][0, 1],
        NATIVE: usual.inplace_predict,
        NATIVE_ONE: single.inplace_predict,
    }
    wanted = single.inplace_predict(rows)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(bench.plan.rounds):
        for name, call in calls.items():
            median_us, answers = _timed(call, rows)
            if not np.allclose(answers, wanted, atol=1e-5):
                raise RuntimeError(f"{name} answers differently")
            times[name].append(median_us)
            bench.tell(f"  one row, {name}: {median_us:.1f} us")
    bench.tell(f"  {runtime.note}")
    ours = times[CHOSEN]
    ratios = {name: spread([b / a for a, b in zip(ours, found, strict=True)]) for name, found in times.items()}
    ratios.pop(CHOSEN)
    return {"us": {name: spread(found) for name, found in times.items()}, "ratios": ratios, "note": runtime.note}


def _timed(call: Callable[[Array], Array], rows: Array) -> tuple[float, Array]:
    taken = np.empty(len(rows))
    answers = np.empty(len(rows))
    singly = [rows[place : place + 1] for place in range(len(rows))]
    for row in singly[:100]:
        call(row)
    for place, row in enumerate(singly):
        start = time.perf_counter()
        answer = call(row)
        taken[place] = time.perf_counter() - start
        answers[place] = np.asarray(answer).reshape(-1)[0]
    return float(np.median(taken) * 1e6), answers


def tree_contenders(bench: Bench, model: Path, inputs: Array) -> list[Contender]:
    """Forebay, mosec tuned and as documented with the native model; one instance of one thread each."""
    import xgboost

    second = xgboost.Booster(model_file=model).inplace_predict(inputs.astype(np.float32))
    expected = {place: np.array([value > 0.5, 1 - value, value]) for place, value in enumerate(second.tolist())}
    plain = check_against(expected, _plain_answer)
    values: list[list[float]] = inputs.tolist()
    return [
        Contender(
            OURS,
            bench.forebay(str(model), "--set", "trees.instances=1"),
            lambda endpoint: protocol_json(endpoint, "trees", "input", "FP32", [row[None] for row in inputs]),
            check_against(expected, _protocol_answer),
        ),
        *(
            Contender(
                f"mosec, {name}",
                bench.peer("mosec_trees.py"),
                lambda endpoint: plain_json(endpoint, "/inference", "input", values),
                plain,
                bench.peer_env(MODEL=str(model), STYLE=style),
            )
            for name, style in (("tuned", "tuned"), ("as documented", "documented"))
        ),
    ]


def _plain_answer(answer: Answer) -> Array:
    document = json.loads(answer.body)
    return np.array([document["label"], *document["probabilities"]])


def _protocol_answer(answer: Answer) -> Array:
    outputs = {output["name"]: output["data"] for output in json.loads(answer.body)["outputs"]}
    return np.array([*outputs["label"], *outputs["probabilities"]])
