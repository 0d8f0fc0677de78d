"""Processes that share cached answers through a real store: one computation for all, and drops that reach everybody."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tests.contract.jobs.redis_servers import Server, free_port, valkey
from tests.e2e.roles import announced, house
from tests.e2e.server import Served, eventually, model, quick, serving
from tests.models.tallied import FIRST

CACHED = ["--set", "tallied.cache=exact", "--set", "tallied.deterministic=true"]
REQUESTS = 1000


def ask(served: Served, value: float, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}
    return served.http.post("/v2/models/tallied/infer", json=body, headers=headers)


def run_of(answer: httpx.Response) -> int:
    """The run of the model that an answer is from."""
    assert answer.status_code == 200, answer.text
    return int(next(output for output in answer.json()["outputs"] if output["name"] == "run")["data"][0])


def runs(folder: Path, value: float) -> int:
    """How often the model ran for this value."""
    lines = (folder / "tallied.runs").read_text().splitlines()
    return sum(float(line.split()[0]) == value for line in lines)


def stampede(places: Sequence[Served], folders: Sequence[Path], value: float) -> None:
    """Many equal requests at once, at all places; the model is slow, and runs once."""
    for folder in folders:
        (folder / "hold").touch()
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(ask, places[number % len(places)], value) for number in range(REQUESTS)]
        eventually(lambda: any(runs(folder, value) for folder in folders), "it runs")
        for folder in folders:
            (folder / "hold").unlink()
        told = {run_of(answer.result()) for answer in answers}
    assert len(told) == 1
    assert sum(runs(folder, value) for folder in folders) == 1


def test_two_web_processes_and_a_worker(tmp_path: Path) -> None:
    with house(tmp_path) as built:
        webs = [built.web("web1").wait_listening(), built.web("web2").wait_listening()]
        worker = Served(
            tmp_path / "worker", *quick(*model("tallied.py", "Tallied")), *CACHED, *built.where, role="worker"
        )
        built._begun(worker)
        worker.wait_ready()
        for web in webs:
            announced(web, "tallied")
        stampede(webs, [worker.folder], FIRST + 1)
        assert ask(webs[0], FIRST + 1).headers["x-cache"] == "exact"


def test_two_servers_with_one_store(tmp_path: Path) -> None:
    with Server(valkey(), free_port()) as store:
        arguments = [*quick(*model("tallied.py", "Tallied")), *CACHED, "--cache-store", store.url]
        with serving(tmp_path / "one", *arguments) as one, serving(tmp_path / "two", *arguments) as two:
            stampede([one, two], [one.folder, two.folder], FIRST + 1)
            value = FIRST + 2
            run = run_of(ask(one, value))
            again = ask(one, value)
            assert run_of(again) == run  # the second time it is worth a write
            kept = f"/v1/cache/{again.headers['x-cache-entry']}"
            eventually(lambda: two.http.get(kept).status_code == 200, "it is kept in the store")
            assert two.http.get(kept).json()["where"] == "store"
            other = ask(two, value)
            assert (run_of(other), other.headers["x-cache"]) == (run, "exact")
            assert int(other.headers["age"]) >= 0
            assert two.metric("forebay_cache_store_answers_total", "tallied") >= 1
            place = f"/v1/cache/{other.headers['x-cache-entry']}"
            assert one.http.get(place).json()["where"] == "memory"
            assert two.http.delete(place).json()["store"] == 1
            eventually(lambda: one.http.get(place).status_code == 404, "it is forgotten everywhere")
            assert ask(one, value, **{"cache-control": "only-if-cached"}).json()["code"] == "cache_miss"
            assert one.http.get("/v1/cache").json()["store"]["entries"] >= 0
