"""A broker is killed under load and begins again: how long after its port accepts until every worker takes jobs again.

A web process, two workers and a store of their own; jobs are submitted one after the other all the time. A RabbitMQ
keeps what it held. The stand-in for Kafka loses all of it, its topics and groups too, as no cluster would.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol

from benchmarks.bench_run import MODELS, Bench, Json, spread
from benchmarks.job_carriers import QUEUES
from benchmarks.servers import Server, free_port, running
from benchmarks.workloads.job_workers import own_store
from tests.contract.brokers.rabbit_nodes import RabbitNode
from tests.contract.brokers.tansu import OPTIONS, Tansu

MODEL = MODELS / "mlp" / "mlp.onnx"
WIDTH = 16
WORKERS = 2
AWAY_S = 3.0
LONGEST_S = 60.0
LOOK_S = 0.02
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


class Node(Protocol):
    """A broker of the bench's own."""

    port: int

    def start(self) -> None: ...
    def begin(self) -> None: ...
    def wait(self) -> None: ...
    def kill(self) -> None: ...


def run(bench: Bench) -> Json:
    """Seconds by broker, each of several returns."""
    found: Json = {}
    with RabbitNode() as rabbit:
        found["RabbitMQ"] = _returns(bench, "RabbitMQ", rabbit, f"{rabbit.url}?prefix={QUEUES}")
    with Tansu() as tansu:
        found["Kafka (Tansu)"] = _returns(bench, "Kafka (Tansu)", tansu, f"{tansu.url}/bench?{OPTIONS}")
    return found


def _returns(bench: Bench, name: str, node: Node, broker: str) -> Json:
    with own_store(bench.scratch / "returns") as store, contextlib.ExitStack() as stack:
        where = ["--store", store, "--broker", broker]
        web = stack.enter_context(_role(bench, "web", "web", *where))
        workers = [
            stack.enter_context(_role(bench, f"worker {number}", "worker", str(MODEL), *where))
            for number in range(WORKERS)
        ]
        stack.enter_context(_submitting(web))
        taken_s = []
        for _ in range(bench.plan.shared_rounds):
            _all_take(workers, [0] * WORKERS)
            node.kill()
            time.sleep(AWAY_S)
            node.begin()
            _accepts(node.port)
            began_s = time.monotonic()
            _all_take(workers, [_leased(worker) for worker in workers])
            taken_s.append(time.monotonic() - began_s)
            bench.tell(f"{name}: all workers take jobs {taken_s[-1]:.2f} s after its port accepts")
            node.wait()
    return spread(taken_s)


@contextlib.contextmanager
def _role(bench: Bench, name: str, *command: str) -> Iterator[Server]:
    port, forebay = free_port(), str(Path(sys.executable).with_name("forebay"))
    with running(name, [forebay, *command, "--port", str(port)], port, HEALTH, env={}, cwd=bench.scratch) as server:
        yield server


@contextlib.contextmanager
def _submitting(web: Server) -> Iterator[None]:
    """Jobs, one after the other, without end; what is refused is of no interest."""
    over = threading.Event()

    def submit() -> None:
        for number in itertools.count():
            body = json.dumps({"input": {"x": [number / 7 % 1] * WIDTH}}).encode()
            connection = HTTPConnection(*web.address, timeout=LONGEST_S)
            with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):
                connection.request("POST", "/v1/models/mlp/jobs", body, {"Content-Type": "application/json"})
                connection.getresponse().read()
            if over.wait(0.01):
                return

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _accepts(port: int) -> None:
    end_s = time.monotonic() + LONGEST_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > end_s:
            raise RuntimeError(f"the broker does not accept connections within {LONGEST_S:g} s")
        time.sleep(LOOK_S / 2)


def _all_take(workers: Sequence[Server], before: Sequence[float]) -> None:
    """Wait until each has taken more jobs than before."""
    end_s = time.monotonic() + LONGEST_S
    while not all(_leased(worker) > number for worker, number in zip(workers, before, strict=True)):
        if time.monotonic() > end_s:
            raise RuntimeError(f"a worker takes no jobs within {LONGEST_S:g} s")
        time.sleep(LOOK_S)


def _leased(worker: Server) -> float:
    with contextlib.closing(HTTPConnection(*worker.address, timeout=LONGEST_S)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("forebay_jobs_leased_total{"))
