"""Very many jobs that wait: the memory of each in Valkey, and how fast jobs are submitted then, against an empty queue.

The model sleeps, so that nothing is done meanwhile.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.bench_run import Bench, Json, spread
from benchmarks.job_servers import ask, ours, store_of
from benchmarks.pools import mlp_inputs
from benchmarks.servers import Server
from benchmarks.stalled_model import STALLED
from benchmarks.turns import wrk_alone
from benchmarks.workloads.job_events import STALLED_MODEL, STALLED_SETTINGS
from benchmarks.workloads.mlp import CONNECTIONS

from forebay.bench.generator import run_event_loop

SUBMIT_S = 2.0
SUBMIT_TURNS = 3


def run(bench: Bench) -> Json:
    """Fill a queue."""
    rows = [STALLED[:1] + row[1:] for row in mlp_inputs().tolist()]
    under_test = ours(bench, STALLED_MODEL, *STALLED_SETTINGS, rows=rows, check=None)
    with bench.serve(under_test.contender) as (server, pool):
        file = pool.write(bench.scratch / "pool.bin")
        run_event_loop(wrk_alone(server, file, CONNECTIONS, bench.plan.warm_s))
        before_bytes, before_jobs = _store_bytes(bench), waiting(server, "stalled")
        empty = [_submit(server, file, SUBMIT_S) for _ in range(SUBMIT_TURNS)]
        while (jobs := waiting(server, "stalled")) < bench.plan.jobs_queued:
            _submit(server, file, min(20.0, max(2.0, (bench.plan.jobs_queued - jobs) / median(empty))))
        full = [_submit(server, file, SUBMIT_S) for _ in range(SUBMIT_TURNS)]
        grown, jobs = _store_bytes(bench) - before_bytes, waiting(server, "stalled") - before_jobs
        body_bytes = len(pool[0].partition(b"\r\n\r\n")[2])
    found = {
        "jobs": jobs,
        "bytes_a_job": grown / jobs,
        "body_bytes": body_bytes,
        "empty_per_s": spread(empty),
        "full_per_s": spread(full),
        "submit_ratio": median(full) / median(empty),
    }
    bench.tell(
        f"jobs queued: {jobs:,}, {grown / jobs:.0f} bytes each with a body of {body_bytes}; submitted "
        f"{median(empty):,.0f}/s at first, {median(full):,.0f}/s at the end"
    )
    return found


def _submit(server: Server, file: Path, seconds: float) -> float:
    figures = run_event_loop(wrk_alone(server, file, CONNECTIONS, seconds))
    if figures.failed:
        raise RuntimeError(f"{figures.failed} submissions failed:\n{server.tail()}")
    return figures.rate


def _store_bytes(bench: Bench) -> int:
    with store_of(bench) as store:
        while store.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.1)
        return int(store.info("memory")["used_memory"])


def waiting(server: Server, model: str) -> int:
    """Jobs of a model that wait, by the server's own gauge, which it brings up to date every second."""
    time.sleep(1.5)
    name = f'forebay_jobs_waiting{{model="{model}"}} '
    lines = ask(server.endpoint, "/metrics").decode().splitlines()
    return next((int(float(line.removeprefix(name))) for line in lines if line.startswith(name)), 0)
