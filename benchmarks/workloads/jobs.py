"""Small MLP jobs, one a request, all different, 64 submitters: completed a second, against FastAPI with a queue.

wrk submits; each of its connections sends the next job when the last is confirmed. Time counts from the first
submission to the last completion. A second client submits 1 % more, and its answers are fetched and checked at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from benchmarks.bench_run import OURS, Bench, Json, spread, throughput_result
from benchmarks.job_carriers import (
    CARRIED,
    CELERY_QUEUE,
    KAFKA,
    QUEUES,
    RABBITMQ_VARIABLE,
    SQS,
    delete_queues,
    rabbitmq_url,
    stand_ins,
)
from benchmarks.job_servers import NOTHING, JobServer, ours, peer, settle, wait_until_over
from benchmarks.pools import mlp_inputs
from benchmarks.turns import CHECK_SHARE, wrk_alone, wrk_and_checker
from benchmarks.workloads.mlp import CONNECTIONS, MODEL, expected_rows

from forebay.bench.connection import Answer
from forebay.bench.generator import run_event_loop
from forebay.core.tensors import Array

ALWAYS = "Forebay, durability always"
CELERY, ARQ = "FastAPI + Celery + Redis", "FastAPI + arq + Redis"
CELERY_CARRIED = "FastAPI + Celery + RabbitMQ + Redis"
CELERY_FLAGS = "--pool solo --without-gossip --without-mingle --without-heartbeat"
"""The fastest of one or two processes, two threads, and this: one process without any pool."""


class _Confirmed(msgspec.Struct):
    id: str


_confirmed = msgspec.json.Decoder(_Confirmed).decode


def run(bench: Bench) -> Json:
    """Jobs a second of every contender, in turns."""
    inputs = mlp_inputs(20_000)
    expected = expected_rows(MODEL, inputs.astype(np.float32))
    servers = {server.contender.name: server for server in job_servers(bench, inputs.tolist())}
    names = [contender.name for contender in bench.chosen([server.contender for server in servers.values()])]

    def turn(name: str) -> Json:
        return jobs_turn(bench, servers[name], expected)

    with _queues_that_go() if {CARRIED, CELERY_CARRIED} & set(names) else contextlib.nullcontext():
        turns = bench.take_turns("jobs", names, turn, unit="jobs/s", rounds=bench.plan.rounds)
    return {
        **throughput_result(turns, "jobs/s"),
        "carried": carried(turns, CARRIED, OURS, CELERY_CARRIED),
        "stand_ins": {name: carried(turns, name, OURS) for name in (KAFKA, SQS) if name in turns},
    }


def carried(turns: Mapping[str, Sequence[Json]], by: str, *others: str) -> dict[str, Json]:
    """How many times as many jobs as each of the others, in the same round, when they are carried so."""
    rates = {name: [turn["rate"] for turn in taken] for name, taken in turns.items()}
    return {
        name: spread([mine / other for mine, other in zip(rates[by], rates[name], strict=False)])
        for name in others
        if name in rates and by in rates
    }


def job_servers(bench: Bench, rows: Sequence[Sequence[float]]) -> list[JobServer]:
    """Forebay as it is, with every job synced before it is confirmed, over a RabbitMQ if there is one, as Celery then
    too, and over stand-ins for Kafka and SQS; the peers' Redis syncs every second."""
    model, one = f"{MODEL}=mlp", ("--set", "mlp.instances=1")
    always = ours(bench, model, *one, "--durability", "always", rows=rows, check=None)
    others = [JobServer(replace(always.contender, name=ALWAYS), always.count)]

    def over(name: str, url: str, beside: contextlib.AbstractContextManager[object] = NOTHING) -> JobServer:
        carried = ours(bench, model, *one, "--broker", url, rows=rows, check=None)
        return JobServer(replace(carried.contender, name=name), carried.count, beside)

    celery = functools.partial(peer, bench, kind="celery", model=MODEL, rows=rows, FLAGS=CELERY_FLAGS)
    if (rabbitmq := rabbitmq_url()) is not None:
        others.append(over(CARRIED, f"{rabbitmq}?prefix={QUEUES}"))
        others.append(celery(name=CELERY_CARRIED, BROKER=rabbitmq, QUEUE=CELERY_QUEUE))
    else:
        bench.tell(f"jobs: {CARRIED} is left out, since there is none at port 5672; {RABBITMQ_VARIABLE} names another")
    return [
        ours(bench, model, *one, rows=rows, check=None),
        *others,
        *(over(one.name, one.url, one.running) for one in stand_ins(bench.tell)),
        celery(name=CELERY),
        peer(bench, ARQ, "arq", MODEL, rows),
    ]


@contextlib.contextmanager
def _queues_that_go() -> Iterator[None]:
    """What was made in the RabbitMQ is deleted in the end."""
    try:
        yield
    finally:
        asyncio.run(delete_queues(f"mlp.{level}" for level in ("high", "normal", "low")))


def jobs_turn(bench: Bench, under_test: JobServer, expected: Array) -> Json:
    """Start, warm up, submit, wait for the last one, look at what came of them, stop."""
    plan = bench.plan
    ids: list[tuple[int, str]] = []

    def note(place: int, answer: Answer) -> None:
        ids.append((place, _confirmed(answer.body).id))

    with under_test.beside, bench.serve(under_test.contender) as (server, pool):
        pool_file = pool.write(bench.scratch / "pool.bin")
        counted = under_test.count(server)
        warm = run_event_loop(wrk_alone(server, pool_file, CONNECTIONS, plan.warm_s))
        wait_until_over(counted, warm.answered)
        before, cpu_s, start = settle(counted), server.cpu_s(), time.perf_counter()
        rate = warm.rate * CHECK_SHARE
        sending = wrk_and_checker(server, pool, pool_file, CONNECTIONS, plan.wrk_s, note, rate)
        figures = run_event_loop(sending)
        submitted = figures.answered + len(ids)
        seconds = wait_until_over(counted, before + submitted) - start
        cpu_s, done = server.cpu_s() - cpu_s, settle(counted) - before
        outputs = [(place, counted.output(id)) for place, id in ids]
        right = sum(y is not None and np.allclose(y, expected[place], atol=1e-3, rtol=1e-3) for place, y in outputs)
        wrong = len(ids) - right + counted.twice()
    return {
        "rate": submitted / seconds,
        "submitted_per_s": figures.rate,
        "submit_p50_ms": figures.p50_ms,
        "submit_p99_ms": figures.p99_ms,
        "submitted": submitted,
        "lost": max(0, submitted - done),
        "failed": figures.failed,
        "generator_cpu": figures.generator_cpu,
        "server_cpu_us_a_job": cpu_s / max(submitted, 1) * 1e6,
        "checked": len(ids),
        "wrong": wrong,
    }
