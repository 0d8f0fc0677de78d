"""`--memory-limit-bytes`: the least recently used model makes room, and is there again when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.e2e import repository
from tests.e2e.repository import ask, control, index, put, settings
from tests.e2e.server import Served, body, eventually, serving

MIB = 1 << 20
HOLDS = "self.ballast = np.ones({mib} << 17)"
"""Float64: so many MiB, all touched."""
LIMIT_MIB = 450
"""Room for two models of 150 MiB and their processes, not for three."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three alike, of which two fit."""
    folder = tmp_path / "models"
    for number, name in enumerate(("first", "second", "third"), 1):
        put(folder, number, name=name, load=HOLDS.format(mib=150))
    return folder


def arguments(models: Path, *more: str) -> list[str]:
    return repository.arguments(models, "--memory-limit-bytes", f"{LIMIT_MIB}MiB", *more)


def loaded(served: Served) -> set[str]:
    entries = served.http.post("/v2/repository/index", json={"ready": True}).json()
    return {entry["name"] for entry in entries}


def reason(served: Served, name: str) -> str:
    ((_, text),) = index(served, name).values()
    return text


def held(served: Served) -> int:
    """Bytes of the instances alone."""
    return sum(process.memory_full_info().pss for process in served.instances())


def test_those_that_fit_are_loaded_at_the_start_and_the_next_request_loads_another(
    models: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        assert loaded(served) == {"first", "second"}
        assert "memory_limit_bytes" in reason(served, "third")
        assert ask(served, name="first") == 1  # so the second is the one that was not used for longest
        assert ask(served, name="third") == 3
        assert loaded(served) == {"first", "third"}
        assert "to make room for third" in reason(served, "second")
        assert held(served) < LIMIT_MIB * MIB
        assert ask(served, name="second") == 2
        assert loaded(served) == {"second", "third"}
        served.wait_logged("second version 2 is unloaded")


def test_metadata_and_readiness_say_what_is_so_without_loading(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        for path in ("/v2/models/third", "/v2/models/third/ready"):
            answer = served.http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
            assert answer.headers["retry-after"]
        assert served.ready()
        for path in ("infer", "generate"):
            answer = served.http.post(f"/v2/models/third/versions/9/{path}", json=body([1.0]))
            assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
            assert "no version '9'; it has 3" in answer.json()["error"]
        assert loaded(served) == {"first", "second"}, "for what is not there nobody must go"


@pytest.mark.full
def test_a_model_that_cannot_be_loaded_again_is_tried_again_later(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        put(models, 3, name="third", load=repository.RAISES)
        for path in ("/v2/models/third/infer", "/v2/models/third/versions/3/infer"):
            answer = served.http.post(path, json=body([1.0]))
            assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready"), answer.text
            assert "cannot be loaded again" in answer.json()["error"]
            assert "no weights here" in answer.json()["error"]
            assert answer.headers["retry-after"] == "1"
        assert "no weights here" in served.http.get("/v2/models/third").json()["error"]
        elsewhere = models.rename(tmp_path / "elsewhere")
        eventually(lambda: served.infer("third", [1.0]).status_code == 404, "it is gone")
        assert served.infer("third", [1.0]).json()["error"] == "there is no model 'third' in the repository"
        assert served.http.get("/v2/models/third").status_code == 404
        elsewhere.rename(models)
        put(models, 3, name="third")
        eventually(lambda: served.infer("third", [1.0]).status_code == 200, "it is there again")


def test_many_requests_at_once_load_a_model_once(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        # At the start it was loaded to see what it holds; that is known from then on.
        assert served.output.count("instance 0 of third is ready") == 1
        answers: list[int] = []
        clients = [threading.Thread(target=lambda: answers.append(ask(served, name="third"))) for _ in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert answers == [3] * 16
        assert served.output.count("instance 0 of third is ready") == 2


def test_a_job_of_an_unloaded_model_is_run_without_anybody_asking(models: Path, tmp_path: Path) -> None:
    """It was queued by an earlier server, which had another model unloaded."""
    with serving(tmp_path, *arguments(models, "--jobs-lease-s", "1")) as served:
        answer = served.http.post("/v1/models/third/jobs", json={"input": {"x": [3000.0]}})
        assert answer.status_code == 202, answer.text
        job = answer.json()["id"]
        eventually(lambda: served.http.get(f"/v1/jobs/{job}").json()["status"] == "running", "it runs")
        served.process.kill()
        served.process.wait(10)
    with serving(tmp_path, *arguments(models)) as served:
        assert loaded(served) == {"first", "second"}
        assert ask(served, name="first") == 1
        eventually(lambda: served.http.get(f"/v1/jobs/{job}").json()["status"] == "succeeded", "it has run", 30)
        assert loaded(served) == {"first", "third"}


def test_a_model_in_use_is_not_unloaded(models: Path, tmp_path: Path) -> None:
    """The only one that may go is the other, though it was used later."""
    with serving(tmp_path, *arguments(models)) as served:
        slow: list[int] = []
        client = threading.Thread(target=lambda: slow.append(ask(served, rows=[4000.0], name="first")))
        client.start()
        eventually(lambda: served.in_flight("first") == 1, "it runs")
        assert ask(served, name="second") == 2
        assert ask(served, name="third") == 3
        assert loaded(served) == {"first", "third"}
        client.join()
        assert slow == [1]


def test_a_load_that_finds_no_room_is_refused_for_now(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        clients = [
            threading.Thread(target=lambda name=name: ask(served, rows=[6000.0], name=name))
            for name in ("first", "second")
        ]
        for client in clients:
            client.start()
        for name in ("first", "second"):
            eventually(lambda name=name: served.in_flight(name) == 1, "it runs")  # type: ignore[misc]
        for send in _ways(served):
            answer = send()
            assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready"), answer.text
            assert answer.headers["retry-after"]
        for client in clients:
            client.join()
        assert ask(served, name="third") == 3


def _ways(served: Served) -> list[Callable[[], httpx.Response]]:
    return [lambda: served.infer("third", [1.0]), lambda: control(served, "load", "third")]


def test_a_model_larger_than_the_limit_says_so(models: Path, tmp_path: Path) -> None:
    put(models, 4, name="vast", load=HOLDS.format(mib=500))
    with serving(tmp_path, *arguments(models)) as served:
        answer = control(served, "load", "vast")
        assert (answer.status_code, answer.json()["code"]) == (507, "memory_limit")
        assert f"memory_limit_bytes is {LIMIT_MIB} MiB" in answer.json()["error"]
        assert "vast.instances" in answer.json()["error"]
        assert "memory_limit_bytes" in reason(served, "vast")
        assert loaded(served) == {"first", "second"}, "others must not go for it"
        assert served.infer("vast", [1.0]).status_code == 404


def test_what_is_declared_is_believed_before_the_load(models: Path, tmp_path: Path) -> None:
    settings(models, 'memory_bytes = "1GiB"\n', name="third")
    with serving(tmp_path, *arguments(models)) as served:
        answer = control(served, "load", "third")
        assert (answer.status_code, answer.json()["code"]) == (507, "memory_limit")
        assert "instance 0 of third" not in served.output, "it was started for nothing"


def test_unloaded_by_hand_stays_unloaded(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        assert control(served, "unload", "first").status_code == 200
        assert control(served, "unload", "third").status_code == 200
        for name in ("first", "third"):
            assert served.infer(name, [1.0]).status_code == 404
        assert control(served, "load", "third").status_code == 200
        assert ask(served, name="third") == 3


def test_without_a_limit_all_are_loaded(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *repository.arguments(models)) as served:
        assert loaded(served) == {"first", "second", "third"}
