"""Synchronous requests while jobs of the same model wait and are run: their p99 against that without jobs.

They come at 30 % of what the server can answer, in an open loop. At least `jobs_beside` jobs wait all the time; they
are put into the store before, as another web process would. The generator shares the server's cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from benchmarks.bench_run import OURS, Bench, Contender, Json, spread
from benchmarks.job_servers import ask
from benchmarks.turns import closed, load_json, open_loop
from benchmarks.workloads.fairness import CLIENTS, LATE_BOUND_MS, LIGHT_RATE_MOST, Subject, subjects
from benchmarks.workloads.job_queue import waiting

from forebay.api.auth import ANONYMOUS
from forebay.bench.generator import run_event_loop
from forebay.brokers.embedded import EmbeddedValkey
from forebay.brokers.redis_link import RedisLink
from forebay.jobs.ids import JobIds
from forebay.jobs.record import JobSpec
from forebay.jobs.redis_jobs import RedisJobs
from forebay.jobs.store import Bounds, NewJob

SHARE = 0.3
MODELS = ("mlp", "sleep", "minilm")
WARM_S = 2.0
AT_ONCE = 500


def run(bench: Bench) -> Json:
    """By model."""
    return {name: _subject(bench, subjects()[name]) for name in MODELS}


def _subject(bench: Bench, subject: Subject) -> Json:
    rounds = [_round(bench, subject, number) for number in range(bench.plan.beside_rounds)]
    good = [one for one in rounds if not (one["alone"]["void"] or one["beside"]["void"])]
    ratios = [one["beside"]["latency_ms"]["p99"] / one["alone"]["latency_ms"]["p99"] for one in good]
    return {"p99_ratio": spread(ratios) if ratios else None, "void_rounds": len(rounds) - len(good), "rounds": rounds}


def _round(bench: Bench, subject: Subject, number: int) -> Json:
    folder, plan = bench.scratch / "jobs", bench.plan
    shutil.rmtree(folder, ignore_errors=True)
    contender = Contender(
        OURS,
        bench.forebay(subject.model, "--data-dir", str(folder), "--drain-timeout-s", "0"),
        lambda endpoint: subject.pool(endpoint, subject.timeout_ms),
        lambda place, answer: None,
    )
    with bench.serve(contender) as (server, pool):
        bodies = [pool[place].partition(b"\r\n\r\n")[2] for place in range(len(pool))]
        able = closed(server, pool, clients=CLIENTS, warm_s=WARM_S, seconds=plan.beside_s / 2, check=None)
        rate = min(LIGHT_RATE_MOST, SHARE * able.throughput_per_s)
        ask(server.endpoint, f"/v1/models/{subject.name}/jobs", bodies[0])  # starts the store

        def synchronous() -> Json:
            result, _ = open_loop(
                server, pool, process="poisson", rate=rate, warm_s=WARM_S, seconds=plan.beside_s, slo_ms=None,
                late_bound_ms=LATE_BOUND_MS, check=None, seed=number,
            )  # fmt: skip
            return load_json(result)

        alone = synchronous()
        jobs = plan.jobs_beside + round(able.throughput_per_s * (plan.beside_s + WARM_S))
        url = EmbeddedValkey(folder).url
        run_event_loop(fill(url, subject.name, bodies, jobs))
        beside = synchronous()
        left = waiting(server, subject.name)
    if left < plan.jobs_beside and not beside["void"]:
        beside["void"] = f"only {left} jobs waited at the end"
    _tell(bench, subject, rate, alone, beside, left)
    return {"rate_per_s": rate, "alone": alone, "beside": beside, "waiting_at_the_end": left}


async def fill(url: str, model: str, bodies: Sequence[bytes], jobs: int) -> None:
    """Submit jobs at the store."""
    link, ids = RedisLink(url), JobIds()
    store = RedisJobs(link)
    for start in range(0, jobs, AT_ONCE):
        new = [
            NewJob(JobSpec(id=ids.new(), model=model, tenant=ANONYMOUS, body=bodies[place % len(bodies)]))
            for place in range(start, min(start + AT_ONCE, jobs))
        ]
        await store.submit(new, Bounds(2 * jobs, 1 << 40))
    await store.close()
    await link.close()


def _tell(bench: Bench, subject: Subject, rate: float, alone: Json, beside: Json, left: int) -> None:
    first, second = alone["latency_ms"], beside["latency_ms"]
    void = alone["void"] or beside["void"]
    bench.tell(
        f"jobs beside {subject.name}, {rate:.0f}/s: p99 {first['p99']:.2f} ms alone, {second['p99']:.2f} ms beside "
        f"jobs ({second['p99'] / first['p99']:.2f}x), p50 {first['p50']:.2f} and {second['p50']:.2f} ms; {left:,} left"
        + (f" [red]VOID: {void}[/]" if void else "")
    )
