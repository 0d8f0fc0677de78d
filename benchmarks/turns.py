"""One timed turn of one server: closed loop by wrk or by our own clients, open loop by our own generator."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.pools import SplitPool
from benchmarks.servers import Server

from forebay.bench.arrivals import Process, arrivals
from forebay.bench.generator import Check, run_closed, run_event_loop, run_open
from forebay.bench.recording import LoadResult, Recording

CHECK_SHARE = 0.01
"""The checking client that runs beside wrk sends this share of wrk's rate, and all its answers are checked."""

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class WrkFigures:
    """What wrk reports, with the checking client's findings."""

    rate: float
    """Good answers a second."""
    answered: int
    """Good answers."""
    p50_ms: float
    p99_ms: float
    failed: int
    generator_cpu: float
    """Cores used by wrk."""
    checker: LoadResult | None

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "rate": self.rate,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "failed": self.failed,
            "generator_cpu": self.generator_cpu,
            "checked": self.checker.checked if self.checker else 0,
            "wrong": self.checker.wrong if self.checker else 0,
        }


def wrk(
    server: Server, pool: SplitPool, pool_file: Path, *, connections: int, warm_s: float, seconds: float, check: Check
) -> WrkFigures:
    """Warm up, then measure with one thread of wrk while a checking client sends 1 % of its rate beside it."""
    warm = run_event_loop(wrk_alone(server, pool_file, connections, warm_s))
    return run_event_loop(
        wrk_and_checker(server, pool, pool_file, connections, seconds, check, warm.rate * CHECK_SHARE)
    )


async def wrk_and_checker(
    server: Server,
    pool: SplitPool,
    pool_file: Path,
    connections: int,
    seconds: float,
    check: Check,
    rate: float,
) -> WrkFigures:
    """One thread of wrk, and beside it a client that sends `rate` a second and checks every answer."""
    instants = arrivals("poisson", max(rate, 1.0), seconds).tolist()
    figures, recording = await asyncio.gather(
        wrk_alone(server, pool_file, connections, seconds),
        run_open(server.address, pool, instants, check=check, sample=1.0),
    )
    # The checking client's own lateness does not bear on wrk's figures.
    checker = recording.summarise(seconds, late_bound_ms=float("inf"))
    return replace(figures, checker=checker)


async def wrk_alone(server: Server, pool_file: Path, connections: int, seconds: float) -> WrkFigures:
    """One thread of wrk."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *wrk_command(server, connections, seconds),
        env={**os.environ, "BENCH_POOL": str(pool_file)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return parse_wrk(output.decode(errors="replace"), cpu_s / (time.perf_counter() - start))


def wrk_command(server: Server, connections: int, seconds: float) -> list[str]:
    """One thread of wrk; it wants the file of a pool in BENCH_POOL, and takes whole seconds only."""
    host, port = server.address
    address = f"http://{host}:{port}"
    return ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "-s", str(SCRIPT), address]


def parse_wrk(output: str, cpu: float) -> WrkFigures:
    """The figures that `wrk.lua` prints at the end. `cpu`: cores used by wrk. Raises `RuntimeError` without them."""
    found = [line for line in output.splitlines() if line.startswith("BENCH ")]
    if not found:
        raise RuntimeError(f"wrk gave no figures:\n{output}")
    values: Mapping[str, int] = json.loads(found[0].removeprefix("BENCH "))
    failed = sum(values[key] for key in ("bad_status", "connect", "read", "write", "timeout"))
    return WrkFigures(
        rate=(values["requests"] - values["bad_status"]) / (values["duration_us"] / 1e6),
        answered=values["requests"] - values["bad_status"],
        p50_ms=values["p50_us"] / 1e3,
        p99_ms=values["p99_us"] / 1e3,
        failed=failed,
        generator_cpu=cpu,
        checker=None,
    )


def closed(
    server: Server, pool: SplitPool, *, clients: int, warm_s: float, seconds: float, check: Check | None
) -> LoadResult:
    """Our own clients in a closed loop. Answers are counted in a window after the warm-up, so that none is cut off."""
    recording = run_event_loop(run_closed(server.address, pool, clients, warm_s + seconds, check=check, sample=1.0))
    return recording.summarise(warm_s + seconds, skip_s=warm_s)


def open_loop(
    server: Server,
    pool: SplitPool,
    *,
    process: Process,
    rate: float,
    warm_s: float,
    seconds: float,
    slo_ms: float | None,
    late_bound_ms: float,
    check: Check | None,
    sample: float = 1.0,
    seed: int = 0,
) -> tuple[LoadResult, Recording]:
    """Our own generator in an open loop; requests due in the first `warm_s` are not counted."""
    instants = arrivals(process, rate, warm_s + seconds, seed).tolist()
    recording = run_event_loop(run_open(server.address, pool, instants, check=check, sample=sample, seed=seed))
    result = recording.summarise(warm_s + seconds, skip_s=warm_s, slo_ms=slo_ms, late_bound_ms=late_bound_ms)
    return result, recording


def load_json(result: LoadResult) -> dict[str, Any]:
    """A run's figures for results.json."""
    figures: dict[str, Any] = msgspec.to_builtins(result)
    return figures
