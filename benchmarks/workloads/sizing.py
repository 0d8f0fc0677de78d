"""`instances = "auto"`, `threads = "auto"` against every other setting: MiniLM, the MLP, the CNN, the trees.

Closed loop. Each setting has a server of its own; all are up, and one at a time is asked, in short turns, since on a
shared machine only turns that follow each other closely can be compared. `auto` settles before the others start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import time
from collections.abc import Callable

from benchmarks.bench_run import OURS, Bench, Contender, Json, spread
from benchmarks.pools import SplitPool, images, mlp_inputs, texts
from benchmarks.servers import Server, ServerFailedError
from benchmarks.turns import closed, load_json, wrk
from benchmarks.workloads.images import CONNECTIONS as IMAGE_CONNECTIONS
from benchmarks.workloads.images import MODEL as IMAGES_MODEL
from benchmarks.workloads.images import image_contenders
from benchmarks.workloads.minilm import OURS_MODEL, minilm_contenders
from benchmarks.workloads.mlp import CONNECTIONS as MLP_CONNECTIONS
from benchmarks.workloads.mlp import MODEL as MLP_MODEL
from benchmarks.workloads.mlp import mlp_contenders
from benchmarks.workloads.trees import CONNECTIONS as TREE_CONNECTIONS
from benchmarks.workloads.trees import build, tree_contenders

from forebay.bench.generator import Check

AUTO = "auto"
SETTLE_S = 90.0
"""`auto` takes 20 s at most; a model in service is loaded once more after that."""

WARM_S = 1.0
CLIENTS = 32
"""Of MiniLM."""

Turn = Callable[[Server, SplitPool, Check], Json]


def run(bench: Bench) -> Json:
    """By model: the rates of every setting and of `auto`, and what `auto` reached of the best."""
    found: Json = {}
    for model, (path, contender, turn) in _subjects(bench).items():
        if bench.only and model not in bench.only:
            continue
        found[model] = _compare(bench, model, path, contender, turn)
    return found


def _subjects(bench: Bench) -> dict[str, tuple[str, Contender, Turn]]:
    """Model name to MODEL argument, our contender for it, and one timed turn."""

    def by_wrk(connections: int) -> Turn:
        def turn(server: Server, pool: SplitPool, check: Check) -> Json:
            file = pool.write(bench.scratch / "pool.bin")
            seconds = bench.plan.sizing_s
            return wrk(
                server, pool, file, connections=connections, warm_s=WARM_S, seconds=seconds, check=check
            ).as_json()

        return turn

    def by_clients(server: Server, pool: SplitPool, check: Check) -> Json:
        # A batch of MiniLM takes a large part of a second: more of it for one figure.
        seconds = 2 * bench.plan.sizing_s
        result = closed(server, pool, clients=CLIENTS, warm_s=WARM_S, seconds=seconds, check=check)
        return {**load_json(result), "rate": result.throughput_per_s}

    trees, rows = build(bench.scratch)

    def ours(contenders: list[Contender]) -> Contender:
        return next(one for one in contenders if one.name == OURS)

    return {
        "minilm": (OURS_MODEL, ours(minilm_contenders(bench, texts())), by_clients),
        "mlp": (str(MLP_MODEL), ours(mlp_contenders(bench, mlp_inputs())), by_wrk(MLP_CONNECTIONS)),
        "images": (
            str(IMAGES_MODEL),
            ours(image_contenders(bench, *images())),
            by_wrk(IMAGE_CONNECTIONS),
        ),
        "trees": (str(trees), ours(tree_contenders(bench, trees, rows)), by_wrk(TREE_CONNECTIONS)),
    }


def _compare(bench: Bench, model: str, path: str, contender: Contender, turn: Turn) -> Json:
    def with_settings(name: str, instances: object, threads: object) -> Contender:
        settings = [f"{model}.instances={instances}", f"{model}.threads={threads}"]
        flags = [part for setting in settings for part in ("--set", setting)]
        return dataclasses.replace(contender, name=name, command=bench.forebay(path, *flags))

    cores = range(1, bench.cores + 1)
    contenders = {f"{k}x{t}": with_settings(f"{k}x{t}", k, t) for k in cores for t in cores}
    contenders[AUTO] = with_settings(AUTO, AUTO, AUTO)
    with contextlib.ExitStack() as servers:
        # `auto` first and alone: the others would be in its way while it measures.
        served = {AUTO: servers.enter_context(bench.serve(contenders.pop(AUTO)))}
        chosen = _settled(served[AUTO][0], model)
        bench.tell(f"sizing, {model}: {chosen}")
        served |= {name: servers.enter_context(bench.serve(one)) for name, one in contenders.items()}
        taken = bench.take_turns(
            f"sizing, {model}",
            list(served),
            lambda name: turn(*served[name], contender.check),
            unit="rows/s",
            rounds=bench.plan.sizing_rounds,
        )
    rates = {name: [figures["rate"] for figures in turns] for name, turns in taken.items()}
    # Within a round the machine is the same for all: the best is the one that is furthest ahead of `auto` there.
    ratios = {
        name: spread([a / b for a, b in zip(rates[AUTO], rate, strict=False)])
        for name, rate in rates.items()
        if name != AUTO
    }
    best = min(ratios, key=lambda name: ratios[name]["median"])
    ratio = ratios[best]
    bench.tell(f"sizing, {model}: auto reaches {ratio['median']:.3f} of {best}")
    return {
        "unit": "rows/s",
        "rates": {name: spread(values) for name, values in rates.items()},
        "chosen": chosen,
        "best": best,
        "of_best": ratio,
        "of_each": ratios,
    }


def _settled(server: Server, model: str) -> Json:
    """Wait until the server says that nothing more is measured; what it says of it."""
    end = time.monotonic() + SETTLE_S
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(*server.address, timeout=10)
        try:
            connection.request("GET", f"/v2/models/{model}/config")
            parameters = json.loads(connection.getresponse().read())["parameters"]
        finally:
            connection.close()
        told: Json = {name.removeprefix("forebay."): value["string_value"] for name, value in parameters.items()}
        if told["tuning_state"] == "settled":
            return told
        time.sleep(0.2)
    raise ServerFailedError(f"{model} was not settled in {SETTLE_S:g} s:\n{server.tail()}")
