"""The answer cache: what hits are worth, and what it costs where every request is another.

MLP and MiniLM by wrk, alike but for the cache. Hits: ten thousand different bodies, all of which were asked before. All
different: no body twice, warm-up included; MiniLM keeps its answers in Redis too, then. A second client sends 1 % more,
and checks its answers.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from benchmarks.bench_run import Bench, Contender, Json, ratios, spread
from benchmarks.pools import (
    SplitPool,
    check_against,
    in_two_parts,
    mlp_inputs,
    protocol_json,
    protocol_values,
    text_rows,
    texts,
)
from benchmarks.servers import free_port
from benchmarks.turns import CHECK_SHARE, wrk_alone, wrk_and_checker
from benchmarks.workloads import minilm, mlp
from redis import Redis
from redis.exceptions import RedisError

from forebay.bench.bodies import Endpoint
from forebay.bench.generator import Check, run_event_loop

HALF = 2000
"""Beginnings, and ends: four million bodies of two parts."""
EXACT = ("cache=exact", "deterministic=true")
OFF, HITS, OFF_UNIQUE, UNIQUE = "off", "hits", "off, all different", "exact, all different"

Pool = Callable[[Endpoint], SplitPool]


@dataclass(frozen=True)
class Subject:
    """A model: how to serve it, a pool that may come again, and one, by seed, of which nothing comes twice."""

    name: str
    arguments: tuple[str, ...]
    pool: Pool
    unique: Callable[[int], Pool]
    sampled: Pool
    """What the checking client sends: bodies whose answers are known."""
    check: Check
    connections: int
    seconds: float
    """Of a timed turn."""
    fill_s: float
    """How long the first pool takes to be asked through once."""
    shared: bool
    """Whether answers are kept in Redis too, where all are different."""


def run(bench: Bench) -> Json:
    """Requests a second of each, in turns, and their ratios."""
    result: Json = {}
    with _redis() as store:
        for subject in (_mlp(bench), _minilm(bench)):
            result[subject.name] = _compare(bench, subject, store)
    return result


def _compare(bench: Bench, subject: Subject, store: str) -> Json:
    pairs = ((OFF, HITS), (OFF_UNIQUE, UNIQUE))
    taken: dict[str, list[Json]] = {}
    for pair in pairs:
        long = pair[1] == HITS and subject.fill_s > subject.seconds
        taken |= bench.take_turns(
            f"cache, {subject.name}",
            pair,
            lambda name: _turn(bench, subject, name, store),
            unit="req/s",
            rounds=bench.plan.minilm_rounds if long else bench.plan.rounds,
        )
    found: Json = {"rates": {name: spread([turn["rate"] for turn in turns]) for name, turns in taken.items()}}
    for off, on in pairs:
        found[on] = {**ratios({"Forebay": taken[on], off: taken[off]})[off], "turns": [*taken[off], *taken[on]]}
    return found


def _turn(bench: Bench, subject: Subject, name: str, store: str) -> Json:
    settings = [f"{subject.name}.{setting}" for setting in EXACT if name in (HITS, UNIQUE)]
    arguments = [*subject.arguments, *(word for setting in settings for word in ("--set", setting))]
    if name == UNIQUE and subject.shared:
        arguments += ["--cache-store", store]
    contender = Contender(name, bench.forebay(*arguments), subject.pool, subject.check)
    plan = bench.plan
    with bench.serve(contender) as (server, pool):
        files = [pool.write(bench.scratch / "pool.bin")] * 2
        warm_s = max(plan.warm_s, subject.fill_s) if name == HITS else plan.warm_s
        if name in (OFF_UNIQUE, UNIQUE):
            files = [subject.unique(n)(server.endpoint).write(bench.scratch / f"unique-{n}.bin") for n in range(2)]
        warm = run_event_loop(wrk_alone(server, files[0], subject.connections, warm_s))
        if warm_s > plan.warm_s:  # most of it was not a hit
            warm = run_event_loop(wrk_alone(server, files[0], subject.connections, plan.warm_s))
        figures = run_event_loop(
            wrk_and_checker(
                server,
                subject.sampled(server.endpoint),
                files[1],
                subject.connections,
                subject.seconds,
                subject.check,
                warm.rate * CHECK_SHARE,
            )
        )
    return figures.as_json()


def _mlp(bench: Bench) -> Subject:
    inputs = mlp_inputs()
    expected = dict(enumerate(mlp.expected_rows(mlp.MODEL, inputs.astype(np.float32))))

    def pool(endpoint: Endpoint) -> SplitPool:
        return protocol_json(endpoint, "mlp", "x", "FP32", [row[None] for row in inputs])

    def unique(seed: int) -> Pool:
        numbers = np.random.default_rng(100 + seed).uniform(size=(2 * HALF, 8))
        halves = [",".join(f"{value:.6f}" for value in row).encode() for row in numbers]
        start = b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":['
        heads, tails = [start + half + b"," for half in halves[:HALF]], [half + b"]}]}" for half in halves[HALF:]]
        return lambda endpoint: in_two_parts(endpoint, "mlp", heads, tails)

    return Subject(
        name="mlp",
        arguments=(str(mlp.MODEL), "--set", "mlp.instances=1"),
        pool=pool,
        unique=unique,
        sampled=pool,
        check=check_against(expected, protocol_values),
        connections=mlp.CONNECTIONS,
        seconds=bench.plan.wrk_s,
        fill_s=1.0,
        shared=False,
    )


def _minilm(bench: Bench) -> Subject:
    values = texts()
    expected = minilm.expected_embeddings(values)
    known = [values[place] for place in expected]

    def pool_of(chosen: list[str]) -> Pool:
        return lambda endpoint: protocol_json(endpoint, "minilm", "text", "BYTES", text_rows(chosen))

    def unique(seed: int) -> Pool:
        start = b'{"inputs":[{"name":"text","shape":[1,1],"datatype":"BYTES","data":["'
        heads = [start + text.encode() for text in texts(HALF, 100 + seed)]
        tails = [b' %06d"]}]}' % number for number in range(HALF)]
        return lambda endpoint: in_two_parts(endpoint, "minilm", heads, tails)

    return Subject(
        name="minilm",
        arguments=(minilm.OURS_MODEL,),
        pool=pool_of(values),
        unique=unique,
        sampled=pool_of(known),
        check=check_against(dict(enumerate(expected.values())), protocol_values),
        connections=minilm.CLIENTS,
        seconds=bench.plan.minilm_s,
        fill_s=90.0,
        shared=True,
    )


@contextmanager
def _redis() -> Iterator[str]:
    """A Redis of its own, without a file."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    with subprocess.Popen(command) as process:
        try:
            client = Redis(port=port)
            for _ in range(100):
                try:
                    client.ping()
                    break
                except RedisError:
                    time.sleep(0.1)
            client.close()
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
