"""Waiting for jobs: how soon one client hears of the end of its job, and what thousands of idle streams cost.

The time is that from sending the submission to having the end of the job, one job after another on an idle machine, by
each of the ways there are: `Prefer: wait` with the submission, the result long-polled, server-sent events and a
WebSocket after it. Of the streams it is the memory of the web process and its CPU, while nothing happens to their jobs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
from benchmarks.bench_run import ROOT, Bench, Json, spread
from benchmarks.job_servers import ask, ours
from benchmarks.job_streams import Form, HttpClient, SocketClient, http_client, open_streams
from benchmarks.pools import SplitPool, mlp_inputs
from benchmarks.servers import Server
from benchmarks.stalled_model import STALLED
from benchmarks.workloads.mlp import MODEL

from forebay.bench.bodies import Endpoint
from forebay.bench.generator import run_event_loop

STALLED_MODEL = f"{ROOT / 'benchmarks' / 'stalled_model.py'}:Stalled=stalled"
STALLED_SETTINGS = ("--set", "stalled.instances=1", "--drain-timeout-s", "0")
WARM = 100
SETTLE_S = 3.0
FILES = 1024
"""Open files beside the streams."""

Way = Callable[[bytes], None]


def run(bench: Bench) -> Json:
    """Both."""
    forms: tuple[Form, ...] = ("sse", "ws")
    return {"ms": _latency(bench), "streams": {form: _streams(bench, form) for form in forms}}


def _latency(bench: Bench) -> Json:
    rows = mlp_inputs().tolist()
    under_test = ours(bench, f"{MODEL}=mlp", "--set", "mlp.instances=1", rows=rows, check=None)
    rounds: dict[str, list[float]] = {}
    for _ in range(bench.plan.rounds):
        with bench.serve(under_test.contender) as (server, pool):
            for name, seconds in one_after_another(server.endpoint, pool, bench.plan.job_latencies):
                rounds.setdefault(name, []).append(float(np.median(seconds) * 1e3))
    for name, medians in rounds.items():
        bench.tell(f"jobs, submission to end by {name}: p50 {np.median(medians):.2f} ms")
    return {name: spread(medians) for name, medians in rounds.items()}


def one_after_another(endpoint: Endpoint, pool: SplitPool, jobs: int) -> list[tuple[str, list[float]]]:
    """Seconds of each job, by way."""
    with http_client(endpoint) as poster, http_client(endpoint) as reader:
        socket = SocketClient(endpoint)

        def waited(request: bytes) -> None:
            head, _, body = request.partition(b"\r\n\r\n")
            _succeeded(poster.ask(head + b"\r\nPrefer: wait=10\r\n\r\n" + body))

        def polled(request: bytes) -> None:
            id = _id(poster.ask(request))
            asked = f"GET /v1/jobs/{id} HTTP/1.1\r\nHost: bench\r\nPrefer: wait=10\r\n\r\n"
            _succeeded(poster.ask(asked.encode()))

        def followed(request: bytes) -> None:
            received = reader.follow(f"/v1/jobs/{_id(poster.ask(request))}/events", b"event: done")
            ended.append(received)

        def heard(request: bytes) -> None:
            socket.until_done(_id(poster.ask(request)))

        ended: list[bytes] = []
        ways: dict[str, Way] = {
            "Prefer: wait": waited, "long poll": polled, "server-sent events": followed, "WebSocket": heard,
        }  # fmt: skip
        found = []
        for name, way in ways.items():
            times: list[float] = []
            for place in range(WARM + jobs):
                start = time.perf_counter()
                way(pool[place])
                times.append(time.perf_counter() - start)
                _finish(reader, ended)
            found.append((name, times[WARM:]))
        socket.close()
        return found


def _finish(reader: HttpClient, ended: list[bytes]) -> None:
    if ended:
        reader.finish(ended.pop())


def _id(body: bytes) -> str:
    id: str = json.loads(body)["id"]
    return id


def _succeeded(body: bytes) -> None:
    status = json.loads(body)["status"]
    if status != "succeeded":
        raise RuntimeError(f"a job that was waited for is {status}")


def _streams(bench: Bench, form: Form) -> Json:
    count = bench.plan.job_streams
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + FILES)), hard))
    under_test = ours(bench, STALLED_MODEL, *STALLED_SETTINGS, rows=[STALLED], check=None)
    with bench.serve(under_test.contender) as (server, _):
        ids = submitted(server.endpoint, count + WARM)
        figures = run_event_loop(_idle(bench, server, form, ids))
    bench.tell(
        f"jobs, {count} idle streams ({form}): {figures['kb_a_stream']:.1f} KB each, "
        f"{figures['percent']:.2f} % of a core, {figures['base_percent']:.2f} % without them"
    )
    return figures


async def _idle(bench: Bench, server: Server, form: Form, ids: Sequence[str]) -> Json:
    seconds = bench.plan.idle_s
    warm = await open_streams(server.endpoint, form, ids[:WARM])
    await asyncio.sleep(SETTLE_S)
    base = await _percent(server, seconds)
    before = server.own_rss_bytes()
    opened = await open_streams(server.endpoint, form, ids[WARM:])
    await asyncio.sleep(SETTLE_S)
    grown = server.own_rss_bytes() - before
    percent = await _percent(server, seconds)
    if lost := sum(listener.lost for listener in (*warm, *opened)):
        raise RuntimeError(f"the server has ended {lost} of {len(ids)} streams")
    for listener in (*warm, *opened):
        assert listener.transport is not None
        listener.transport.abort()
    return {"streams": len(opened), "kb_a_stream": grown / len(opened) / 1e3, "percent": percent, "base_percent": base}


async def _percent(server: Server, seconds: float) -> float:
    """Of a core, used by the web process alone."""
    before, start = server.own_cpu_s(), time.perf_counter()
    await asyncio.sleep(seconds)
    return 100 * (server.own_cpu_s() - before) / (time.perf_counter() - start)


def submitted(
    endpoint: Endpoint, count: int, model: str = "stalled", rows: Sequence[Sequence[float]] = (STALLED,)
) -> list[str]:
    """Submit jobs, many a request; their ids."""
    ids: list[str] = []
    for start in range(0, count, 500):
        jobs = [{"input": {"x": rows[place % len(rows)]}} for place in range(start, min(start + 500, count))]
        answer = ask(endpoint, f"/v1/models/{model}/jobs/batch", json.dumps({"jobs": jobs}).encode())
        ids += [job["id"] for job in json.loads(answer)["jobs"]]
    return ids
