"""Two workers that share a backlog of jobs: the mean rows of their batches, against those of one worker alone.

The model takes 40 ms a batch and 1 ms a row, so that a backlog should run in batches as large as they may be. Jobs are
carried by the store itself, and by a RabbitMQ if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench_run import Bench, Json, spread
from benchmarks.job_carriers import QUEUES, delete_queues, rabbitmq_url
from benchmarks.servers import free_port, running
from benchmarks.workloads.fairness import LONG_MODEL

from forebay.api.auth import ANONYMOUS
from forebay.bench.generator import run_event_loop
from forebay.brokers.opening import carrier_of
from forebay.brokers.redis_link import RedisLink
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.ids import JobIds
from forebay.jobs.record import JobRecord, JobSpec
from forebay.jobs.redis_jobs import RedisJobs
from forebay.jobs.redis_kept import RedisKept
from forebay.jobs.redis_records import RedisRecords
from forebay.jobs.store import Bounds, JobQueue, NewJob

NAME = "long"
WORKERS = (1, 2)
AT_ONCE = 500
DONE_S = 300.0


def run(bench: Bench) -> Json:
    """Mean batch rows by who carries the jobs and how many workers there are."""
    carriers = {"store": None, **({"RabbitMQ": f"{url}?prefix={QUEUES}"} if (url := rabbitmq_url()) else {})}
    return {carrier: _carried(bench, carrier, broker) for carrier, broker in carriers.items()}


def _carried(bench: Bench, carrier: str, broker: str | None) -> Json:
    rows: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(bench.plan.shared_rounds):
        for workers in WORKERS:
            try:
                rows[workers].append(_turn(bench, broker, workers))
            finally:
                if broker is not None:
                    asyncio.run(delete_queues(f"{NAME}.{level}" for level in ("high", "normal", "low")))
        alone, shared = (rows[workers][-1] for workers in WORKERS)
        bench.tell(f"jobs carried by {carrier}: {alone:.2f} rows a batch, {shared:.2f} with two workers")
    one, two = (rows[workers] for workers in WORKERS)
    ratios = [shared / alone for shared, alone in zip(two, one, strict=True)]
    return {"one": spread(one), "two": spread(two), "ratio": spread(ratios)}


def _turn(bench: Bench, broker: str | None, workers: int) -> float:
    """Mean rows of the batches in which a backlog was run, that many workers beginning it together."""
    with own_store(bench.scratch / "shared") as store, contextlib.ExitStack() as stack:
        ids = run_event_loop(_submitted(store, broker, bench.plan.shared_jobs))
        carried = ["--broker", broker] if broker is not None else []
        for number in range(workers):
            port = free_port()
            command = [str(Path(sys.executable).with_name("forebay")), "worker", LONG_MODEL]
            command += ["--set", f"{NAME}.instances=1", "--store", store, *carried, "--port", str(port)]
            first = b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
            stack.enter_context(running(f"worker {number}", command, port, first, env={}, cwd=bench.scratch))
        batch_rows = run_event_loop(_batch_rows(store, ids))
    # Each job tells the rows of its batch, so that a batch of n is told n times.
    return len(batch_rows) / sum(1 / each for each in batch_rows)


@contextlib.contextmanager
def own_store(folder: Path) -> Iterator[str]:
    """A store of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    command = [_redis_server(), "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _redis_server() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise SystemExit(
            "workers that share jobs need redis-server. On Debian and Ubuntu: apt-get install redis-server"
        )
    return found


@contextlib.asynccontextmanager
async def _opened(store: str, broker: str | None) -> AsyncIterator[tuple[JobQueue, RedisKept]]:
    link = RedisLink(store)
    queue: JobQueue
    records: RedisKept
    if broker is None:
        queue = records = RedisJobs(link)
    else:
        records = carried = RedisRecords(link)
        queue = BrokeredQueue(carried, carrier_of(broker))
    try:
        yield queue, records
    finally:
        await queue.close()
        await link.close()


async def _submitted(store: str, broker: str | None, count: int) -> list[str]:
    made, numbers = JobIds(), itertools.count()
    ids: list[str] = []
    async with _opened(store, broker) as (queue, _):
        while len(ids) < count:
            bodies = [json.dumps({"input": {"x": [float(next(numbers))]}}).encode() for _ in range(AT_ONCE)]
            specs = [JobSpec(id=made.new(), model=NAME, tenant=ANONYMOUS, body=body) for body in bodies]
            done = await queue.submit([NewJob(spec) for spec in specs], Bounds(2 * count, 1 << 40))
            if any(one.outcome != "created" for one in done):
                raise RuntimeError(f"submissions were refused: {done[0]}")
            ids += [spec.id for spec in specs]
    return ids


async def _batch_rows(store: str, ids: list[str]) -> list[float]:
    """Of every job's batch, once all have ended. Raises `RuntimeError` for jobs that failed or do not end."""
    found: list[float] = []
    link = RedisLink(store)
    records = RedisJobs(link)
    try:
        async with asyncio.timeout(DONE_S):
            for begin in range(0, len(ids), AT_ONCE):
                portion = ids[begin : begin + AT_ONCE]
                looked = await _looked(records, portion)
                while not all(one.finished_ms for one in looked):
                    await asyncio.sleep(0.2)
                    looked = await _looked(records, portion)
                found += [_rows(one) for one in looked]
    finally:
        await link.close()
    return found


async def _looked(records: RedisKept, ids: list[str]) -> list[JobRecord]:
    return [one for one in await records.read(ids, output=False) if isinstance(one, JobRecord)]


def _rows(record: JobRecord) -> float:
    metrics: dict[str, Any] = record.metrics or {}
    if record.state != "succeeded" or record.attempt != 1:
        raise RuntimeError(f"job {record.spec.id} is {record.state} after {record.attempt} runs: {record.error}")
    return float(metrics["batch_rows"])
