"""An idle server: CPU of all its processes together, from /proc. MiniLM and the MLP are loaded, no knob touched."""

from __future__ import annotations

import time

from benchmarks.bench_run import OURS, Bench, Contender, Json
from benchmarks.pools import mlp_inputs, protocol_json
from benchmarks.workloads.minilm import OURS_MODEL
from benchmarks.workloads.mlp import MODEL

SETTLE_S = 3.0


def run(bench: Bench) -> Json:
    """Percent of one core used while nothing is asked."""
    inputs = mlp_inputs(16)
    contender = Contender(
        OURS,
        bench.forebay(str(MODEL), OURS_MODEL),
        lambda endpoint: protocol_json(endpoint, "mlp", "x", "FP32", [row[None] for row in inputs]),
        lambda place, answer: None,
    )
    with bench.serve(contender) as (server, _):
        time.sleep(SETTLE_S)
        before, start = server.cpu_s(), time.perf_counter()
        time.sleep(bench.plan.idle_s)
        percent = 100 * (server.cpu_s() - before) / (time.perf_counter() - start)
        processes = server.process_count()
    bench.tell(f"idle: {percent:.2f} % of a core, {processes} processes")
    return {"unit": "% of a core", "percent": percent, "processes": processes, "seconds": bench.plan.idle_s}
