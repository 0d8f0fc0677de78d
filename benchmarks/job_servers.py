"""Servers of jobs under test: ours and the peers', what is sent to them, and how their jobs are counted."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.bench_run import OURS, Bench, Contender
from benchmarks.pools import SplitPool, plain_json
from benchmarks.servers import Server, free_port
from redis import Redis

from forebay.bench.bodies import Endpoint, http_request
from forebay.brokers.embedded import EmbeddedValkey

DRAIN_S = 120.0
"""How long the jobs of a turn may take after the last submission."""
_POLL_S = 0.02
_QUIET_S = 0.5
NOTHING = nullcontext()
_FINISHED = re.compile(rb'^forebay_jobs_finished_total\{kind="succeeded",[^}]*\} (\S+)', re.MULTILINE)


class Counted(Protocol):
    """The jobs of one running server, as its store has them."""

    def succeeded(self) -> int:
        """Jobs that are done, since it started."""
        ...

    def is_over(self, submitted: int) -> bool:
        """Whether so many are done, or none is left to do. Cheap: it is asked fifty times a second."""
        ...

    def twice(self) -> int:
        """Jobs that did not end as they should: not a success, or run more than once."""
        ...

    def output(self, id: str) -> Any:
        """The numbers of a job's answer; None: it has none."""
        ...


@dataclass(frozen=True)
class JobServer:
    """A contender that takes jobs, its count, and what runs beside it."""

    contender: Contender
    count: Callable[[Server], Counted]
    beside: AbstractContextManager[object] = NOTHING


def ask(endpoint: Endpoint, path: str, body: bytes | None = None) -> bytes:
    """One GET, or a POST of JSON; the answer's body. Raises `RuntimeError` for an error."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise RuntimeError(f"{path} was answered {answer.status}: {found[:300]!r}")
    return found


class ForebayCount:
    """By its own metrics and its own list of jobs."""

    def __init__(self, server: Server) -> None:
        self._endpoint = server.endpoint

    def succeeded(self) -> int:
        """By the counter of the worker, which counts what is committed."""
        found = _FINISHED.search(ask(self._endpoint, "/metrics"))
        return int(float(found[1])) if found else 0

    def is_over(self, submitted: int) -> bool:
        """By the same."""
        return self.succeeded() >= submitted

    def twice(self) -> int:
        """By the list of all jobs."""
        bad, cursor, seen = 0, "", set()
        while True:
            page = json.loads(ask(self._endpoint, f"/v1/jobs?limit=200{cursor}"))
            for job in page["jobs"]:
                bad += job["status"] != "succeeded" or job["attempt"] != 1 or job["id"] in seen
                seen.add(job["id"])
            if page["cursor"] is None:
                return bad + (len(seen) != self.succeeded())
            cursor = f"&cursor={page['cursor']}"

    def output(self, id: str) -> Any:
        """From the job's document."""
        job = json.loads(ask(self._endpoint, f"/v1/jobs/{id}"))
        return job["output"]["output"]["y"] if job["status"] == "succeeded" else None


class PeerCount:
    """By what stands in the peer's Redis."""

    def __init__(self, server: Server, redis_port: int) -> None:
        self._endpoint = server.endpoint
        self._jobs = Redis(port=redis_port, db=0)
        self._results = Redis(port=redis_port, db=1)

    def output(self, id: str) -> Any:
        """From the peer's own web server."""
        return json.loads(ask(self._endpoint, f"/jobs/{id}"))["y"]


class CeleryCount(PeerCount):
    """Celery's results have a database of their own here."""

    def succeeded(self) -> int:
        """One key a result."""
        return int(self._results.dbsize())

    def is_over(self, submitted: int) -> bool:
        """By the same."""
        return self.succeeded() >= submitted

    def twice(self) -> int:
        """Celery does not count runs."""
        keys = list(self._results.scan_iter("celery-task-meta-*", 1000))
        values: list[Any] = []
        for start in range(0, len(keys), 1000):
            values += self._results.mget(keys[start : start + 1000])
        return sum(json.loads(value)["status"] != "SUCCESS" for value in values)


class ArqCount(PeerCount):
    """arq keeps all in one database."""

    def succeeded(self) -> int:
        """One key a result."""
        return sum(1 for _ in self._jobs.scan_iter("arq:result:*", 5000))

    def is_over(self, submitted: int) -> bool:
        """Nothing waits or runs."""
        return int(self._jobs.zcard("arq:queue")) == 0

    def twice(self) -> int:
        """arq keeps whether a job succeeded inside a pickle, and does not count runs: the checked ones must do."""
        return 0


def ours(bench: Bench, model: str, *settings: str, rows: Sequence[Sequence[float]], check: Any) -> JobServer:
    """Forebay with a data folder of its own, and jobs in the short form of one row. `model`: as `serve` takes it, its
    name last."""
    target, _, name = model.rpartition("=")

    def command(port: int) -> Sequence[str]:
        folder = bench.scratch / "jobs"
        shutil.rmtree(folder, ignore_errors=True)
        return bench.forebay(target, "--data-dir", str(folder), *settings)(port)

    contender = Contender(OURS, command, lambda endpoint: job_pool(endpoint, name, rows), check)
    return JobServer(contender, ForebayCount)


def job_pool(endpoint: Endpoint, model: str, rows: Sequence[Sequence[float]]) -> SplitPool:
    """One submission a row."""
    bodies = (json.dumps({"input": {"x": row}}, separators=(",", ":")).encode() for row in rows)
    return SplitPool([http_request(endpoint, f"/v1/models/{model}/jobs", body) for body in bodies])


def peer(
    bench: Bench, name: str, kind: str, model: Path, rows: Sequence[Sequence[float]], **settings: str
) -> JobServer:
    """FastAPI with a queue, its workers and its Redis."""
    redis_port = free_port()
    redis = shutil.which("redis-server") or shutil.which("valkey-server")
    if redis is None:
        raise SystemExit("the peers of jobs need redis-server. On Debian and Ubuntu: apt-get install redis-server")
    env = bench.peer_env(MODEL=str(model), REDIS_PORT=str(redis_port), REDIS=redis, **settings)
    counts: dict[str, Callable[[Server, int], Counted]] = {"celery": CeleryCount, "arq": ArqCount}
    contender = Contender(
        name,
        lambda port: [str(bench.peer_python), "-m", "benchmarks.peers.jobs_stack", kind, str(port)],
        lambda endpoint: plain_json(endpoint, "/jobs", "x", rows),
        lambda place, answer: None,
        env,
    )
    return JobServer(contender, lambda server: counts[kind](server, redis_port))


def wait_until_over(counted: Counted, submitted: int) -> float:
    """Wait for the last job, `DRAIN_S` at most; the instant at which that was seen, by `perf_counter`."""
    until = time.perf_counter() + DRAIN_S
    while not counted.is_over(submitted) and time.perf_counter() < until:
        time.sleep(_POLL_S)
    return time.perf_counter()


def settle(counted: Counted) -> int:
    """Wait until no more jobs get done, those too that wrk has sent and not waited for; how many are done."""
    done = -1
    while done != (done := counted.succeeded()):
        time.sleep(_QUIET_S)
    return done


@contextmanager
def store_of(bench: Bench) -> Iterator[Redis]:
    """A connection to the Valkey that our server has started."""
    path = EmbeddedValkey(bench.scratch / "jobs").url.removeprefix("unix://")
    client = Redis(unix_socket_path=path)
    try:
        yield client
    finally:
        client.close()
