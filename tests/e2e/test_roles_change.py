"""Web processes, workers and their store come, go and die; what was accepted is done, and nobody waits for ever."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.e2e.long import full
from tests.e2e.roles import MLP_ROW, House, announced, ended, house, job, submit
from tests.e2e.server import Served, calls, eventually, gone, model, values

PAUSE = model("faulty.py", "Pause")
LONG_MS = 2500.0
GIVE = """
import forebay
class Give(forebay.Model):
    inputs = {{"x": ("FP32", [{width}])}}
    outputs = {{"y": ("FP32", [{width}])}}
    def predict(self, x):
        return x + {width}
"""


@pytest.fixture
def built(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as one:
        yield one


def ran(worker: Served) -> bool:
    """Whether a worker runs, or has run, more than what it tried at its start."""
    return len(calls(worker, "pause")) > worker_start(worker)


def worker_start(worker: Served) -> int:
    """Calls of a worker by when it was ready; noted at the first look."""
    mark = worker.folder / "started"
    if not mark.exists():
        mark.write_text(str(len(calls(worker, "pause"))))
    return int(mark.read_text())


def kill(served: Served) -> None:
    """SIGKILL; its instances follow."""
    instances = served.instances()
    served.process.kill()
    served.process.wait()
    gone(instances)


def infer(web: Served, row: float) -> httpx.Response:
    return web.http.post("/v2/models/pause/infer", json={"input": {"x": [row]}})


def test_a_model_is_known_from_when_a_worker_announces_it_and_while_none_has_it(built: House, mlp: Path) -> None:
    web = built.web().wait_listening()
    eventually(lambda: "no worker has announced a model yet" in readiness(web), "it says what is missing")
    assert web.http.post("/v1/models/mlp/jobs", json={"input": {"x": MLP_ROW}}).status_code == 404

    first = built.worker("first", str(mlp), port=None)
    web.wait_ready()
    announced(web, "mlp")
    described = web.http.get("/v2/models/mlp").json()
    first.stop()

    eventually(lambda: web.http.get("/v2/models/mlp/ready").status_code == 503, "its worker is gone")
    refused = web.http.post("/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}})
    assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
    assert refused.headers["retry-after"]
    assert web.ready()
    assert web.http.get("/v2/models/mlp").json() == described
    assert web.http.post("/v1/models/mlp/jobs", json={"input": {"x": [1]}}).status_code == 400
    later = submit(web, "mlp", MLP_ROW)
    respond = web.http.post("/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}}, headers={"Prefer": "respond-async"})
    assert respond.status_code == 202

    built.worker("second", str(mlp), port=None)
    assert ended(web, later)["status"] == "succeeded"
    announced(web, "mlp")
    assert web.http.post("/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}}).status_code == 200


def readiness(web: Served) -> str:
    return web.http.get("/readyz").text


def test_a_model_that_its_worker_unloads_is_forgotten(built: House, mlp: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("one", "two"):
        (repository / name / "1").mkdir(parents=True)
        shutil.copy(mlp, repository / name / "1" / "model.onnx")
    web = built.web()
    built.worker("worker", str(repository), "--watch", "--watch-interval-s", "0.1")
    web.wait_ready()
    announced(web, "two")
    shutil.rmtree(repository / "two")
    eventually(lambda: web.http.get("/v2/models/two").status_code == 404, "it is forgotten")
    assert web.http.post("/v1/models/two/jobs", json={"input": {"x": MLP_ROW}}).status_code == 404
    assert web.http.get("/v2/models/one").status_code == 200


def test_a_store_that_is_down_at_the_start_is_waited_for(tmp_path: Path, mlp: Path) -> None:
    with house(tmp_path, store=False) as built:
        web = built.web().wait_listening()
        worker = built.worker("worker", str(mlp), port=None)
        web.wait_logged("the store of jobs cannot be reached yet")
        eventually(lambda: "cannot be reached" in readiness(web), "it is not ready")
        eventually(lambda: worker.logged("working with mlp"), "the worker has loaded")
        built.store.start()
        web.wait_ready()
        announced(web, "mlp")
        assert ended(web, submit(web, "mlp", MLP_ROW))["status"] == "succeeded"
        assert web.http.post("/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}}).status_code == 200


def test_a_store_that_dies_and_comes_back_costs_only_what_was_asked_meanwhile(built: House, mlp: Path) -> None:
    web = built.web()
    built.worker("worker", str(mlp))
    web.wait_ready()
    built.store.kill()
    refused = web.http.post(
        "/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}, "parameters": {"timeout": 3_000_000}}
    )
    assert refused.status_code in (503, 504)
    eventually(lambda: not web.ready(), "it is not ready")
    built.store.start()
    eventually(web.ready, "it is ready again")
    announced(web, "mlp")
    assert web.http.post("/v2/models/mlp/infer", json={"input": {"x": MLP_ROW}}).status_code == 200
    assert ended(web, submit(web, "mlp", MLP_ROW))["status"] == "succeeded"


def test_jobs_of_a_worker_that_is_killed_run_at_another(built: House) -> None:
    web = built.web()
    first = built.worker("first", *PAUSE)
    worker_start(first)
    web.wait_ready()
    announced(web, "pause")
    id = submit(web, "pause", [LONG_MS])
    eventually(lambda: ran(first), "it runs")
    waiting = [submit(web, "pause", [float(value)]) for value in range(3)]
    kill(first)  # before another begins, which may take longer than the job
    second = built.worker("second", *PAUSE)
    done = ended(web, id)
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert done["output"]["output"]["y"] == [LONG_MS]
    assert [ended(web, one)["status"] for one in waiting] == ["succeeded"] * 3
    assert second.process.poll() is None


def test_a_request_whose_worker_is_killed_is_answered_by_another(built: House) -> None:
    web = built.web()
    workers = [built.worker(name, *PAUSE) for name in ("first", "second")]
    for worker in workers:
        worker_start(worker)
    web.wait_ready()
    announced(web, "pause")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(infer, web, LONG_MS)
        eventually(lambda: any(map(ran, workers)), "one runs it")
        holds = next(worker for worker in workers if ran(worker))
        kill(holds)
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"]["y"] == [LONG_MS]
    web.wait_logged("a request whose worker has vanished is sent again")


def test_a_request_that_nobody_can_answer_ends_at_its_deadline(built: House) -> None:
    web = built.web()
    worker = built.worker("only", *PAUSE)
    worker_start(worker)
    web.wait_ready()
    with ThreadPoolExecutor() as pool:
        body = {"input": {"x": [LONG_MS]}, "parameters": {"timeout": 4_000_000}}
        asked = pool.submit(lambda: web.http.post("/v2/models/pause/infer", json=body))
        eventually(lambda: ran(worker), "it runs")
        kill(worker)
        answer = asked.result()
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("number", [signal.SIGTERM, full(signal.SIGINT)])
def test_a_worker_that_is_told_to_stop_finishes_what_it_runs(built: House, number: signal.Signals) -> None:
    web = built.web()
    worker = built.worker("worker", *PAUSE, port=None)
    web.wait_ready()
    announced(web, "pause")
    worker_start(worker)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(infer, web, 1500.0)
        eventually(lambda: ran(worker), "the request runs")
        behind = submit(web, "pause", [1.0])
        worker.process.send_signal(number)
        assert worker.process.wait(20) == 0
        assert asked.result().status_code == 200
    assert "Traceback" not in worker.output
    # Nobody waits for a lease to end: it was given back.
    assert job(web, behind)["status"] in ("queued", "succeeded")
    built.worker("second", *PAUSE, port=None)
    assert ended(web, behind)["status"] == "succeeded"
    assert job(web, behind)["attempt"] == 1


def test_workers_are_restarted_one_by_one_without_a_failed_request(built: House) -> None:
    web = built.web()
    workers = [built.worker(f"worker{number}", *PAUSE) for number in range(2)]
    web.wait_ready()
    announced(web, "pause")
    over = threading.Event()
    answers: list[httpx.Response] = []

    def ask() -> None:
        while not over.is_set():
            answers.append(infer(web, 3.0))

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for number, worker in enumerate(workers):
                before = len(answers)
                eventually(lambda before=before: len(answers) > before + 20, "requests are answered")  # type: ignore[misc]
                worker.stop()
                built.worker(f"next{number}", *PAUSE)
        finally:
            over.set()
        for one in asking:
            one.result()
    assert [answer.text for answer in answers if answer.status_code != 200] == []


def test_jobs_outlive_the_web_process_that_accepted_them(built: House) -> None:
    web = built.web()
    built.worker("worker", *PAUSE)
    web.wait_ready()
    announced(web, "pause")
    ids = [submit(web, "pause", [float(value)]) for value in range(20)]
    web.process.kill()
    web.process.wait()
    other = built.web("other").wait_ready()
    for value, id in enumerate(ids):
        done = ended(other, id)
        assert done["output"]["output"]["y"] == [value]


def test_two_workers_share_the_requests(built: House) -> None:
    web = built.web()
    workers = [built.worker(f"worker{number}", *PAUSE) for number in range(2)]
    for worker in workers:
        worker_start(worker)
    web.wait_ready()
    eventually(
        lambda: web.http.get("/v2/models/pause/config").json()["instance_group"][0]["count"] == 2, "both are known"
    )
    assert [values(answer) for answer in web.many("pause", [[40.0]] * 64)] == [[40.0]] * 64
    assert all(map(ran, workers))


def test_another_build_of_a_version_takes_over_and_is_told_of(built: House, tmp_path: Path) -> None:
    web = built.web()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "give.py").write_text(GIVE.format(width=1))
    (tmp_path / "b" / "give.py").write_text(GIVE.format(width=2))
    built.worker("old", f"{tmp_path / 'a' / 'give.py'}:Give")
    web.wait_ready()
    announced(web, "give")
    assert web.http.post("/v2/models/give/infer", json={"input": {"x": [1]}}).json()["output"]["y"] == [2]
    built.worker("new", f"{tmp_path / 'b' / 'give.py'}:Give")
    eventually(lambda: web.logged("with another signature and another digest"), "it says that they differ")
    assert web.http.post("/v2/models/give/infer", json={"input": {"x": [1, 1]}}).json()["output"]["y"] == [3, 3]
    assert web.http.get("/v2/models/give").json()["inputs"][0]["shape"] == [-1, 2]
