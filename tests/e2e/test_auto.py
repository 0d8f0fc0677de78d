"""`instances = "auto"`, `threads = "auto"`: measured beside the requests, taken without losing one, remembered."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.e2e import repository
from tests.e2e.server import Served, body, eventually, gone, model, serving, values

CORES = len(os.sched_getaffinity(0))
MEASURING = "measuring how many"
SETTLED_S = 60.0
pytestmark = [
    pytest.mark.skipif(CORES < 2, reason="with one core there is nothing to choose between"),
    pytest.mark.timeout(180),
]


def auto(*models: str) -> list[str]:
    """Arguments that serve these models by measurement, with a short start."""
    settings = ("instances=auto", "threads=auto", "warm_up_s=0.1")
    return [*models, *(part for setting in settings for part in ("--set", f"*.{setting}"))]


def told(served: Served, name: str) -> dict[str, str]:
    """What the model's configuration says of its tuning."""
    parameters: dict[str, Any] = served.http.get(f"/v2/models/{name}/config").json()["parameters"]
    return {key.removeprefix("forebay."): value["string_value"] for key, value in parameters.items()}


def settled(served: Served, name: str) -> dict[str, str]:
    """The same once nothing is measured any more."""
    eventually(lambda: told(served, name)["tuning_state"] == "settled", "it is settled", SETTLED_S)
    return told(served, name)


def threads(served: Served, name: str) -> float:
    """With how many threads a request is answered."""
    (value,) = values(served.infer(name, [1.0]))
    return float(value)


def trials(served: Served) -> list[psutil.Process]:
    """The processes that measure."""
    found = []
    for child in psutil.Process(served.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "forebay.engine.trial" in child.cmdline():
                found.append(child)
    return found


class Caller:
    """Asks now and then until the block ends; anything but a right answer is an error there."""

    def __init__(self, served: Served, name: str, every_s: float = 0.02) -> None:
        """every_s: between two questions. A server that is busy does not measure."""
        self._stop, self._every_s = threading.Event(), every_s
        self._served, self._name = served, name
        self.seen: list[float] = []

    def __enter__(self) -> Caller:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(self._ask)
        return self

    def _ask(self) -> None:
        with httpx.Client(base_url=self._served.http.base_url, timeout=30) as http:
            while not self._stop.wait(self._every_s):
                self.seen += values(http.post(f"/v2/models/{self._name}/infer", json=body([1.0])))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._future.result()
        self._pool.shutdown()


def test_what_is_measured_takes_over_without_a_failed_request_and_is_remembered(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    with serving(first, *auto(*model("sized.py", "Steep"))) as served:
        with Caller(served, "steep", every_s=0.2) as caller:
            assert threads(served, "steep") == 1, "it serves with the default at once"
            found = settled(served, "steep")
            best = int(found["tuning_chosen"].split("x")[1])
            assert best > 1, served.output
            assert f"{CORES}x1=" in found["tuning_rows_per_s"], "the default was measured too"
            eventually(lambda: caller.seen[-1:] == [float(best)], "the new size answers")
        eventually(lambda: len(served.instances()) == 1, "the old processes have ended")
        asked = len(caller.seen) + 1
        statistics = served.http.get("/v2/models/steep/stats").json()["model_stats"][0]
        counted = served.metric("forebay_requests_total", "steep"), statistics["inference_count"]
        assert counted == (asked, asked), "counts go on, and hold nothing of the measuring"
        served.wait_logged(MEASURING)
        served.wait_logged("serves it best")
        eventually(lambda: not trials(served), "the process that measured has ended")
    assert set(caller.seen) == {1.0, float(best)}
    for folder in (second, third):
        folder.mkdir()
    shutil.copytree(first / ".forebay", second / ".forebay")
    with serving(second, *auto(*model("sized.py", "Steep"))) as served:
        assert (threads(served, "steep"), told(served, "steep")) == (best, found)
        assert not served.logged(MEASURING)
    # What was measured may be shipped beside the model.
    (kept,) = (first / ".forebay" / "latency").iterdir()
    shutil.copy(kept, third / "latency.json")
    for file in ("sized.py", "__init__.py"):
        if (source := Path(model(file, "x")[0].rpartition(":")[0])).exists():
            shutil.copy(source, third / file)
    with serving(third, *auto("sized.py:Steep")) as served:
        assert (threads(served, "steep"), told(served, "steep")) == (best, found)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("Single", "one thread is all that this library has", marks=pytest.mark.full),
        pytest.param("Fragile", "processes died", marks=pytest.mark.full),
    ],
)
def test_a_candidate_that_fails_is_said_and_not_taken(tmp_path: Path, name: str, reason: str) -> None:
    with serving(tmp_path, *auto(*model("sized.py", name))) as served, Caller(served, name.lower()):
        found = settled(served, name.lower())
        assert found["tuning_chosen"].endswith("x1")
        assert f"1x{CORES} failed" in found["tuning_reason"] or "x2 failed" in found["tuning_reason"]
        assert reason in found["tuning_reason"]
        assert threads(served, name.lower()) == 1


@pytest.mark.full
def test_a_model_that_is_too_slow_keeps_its_size_and_is_served_meanwhile(tmp_path: Path) -> None:
    with serving(tmp_path, *auto(*model("sized.py", "Slow"))) as served:
        assert threads(served, "slow") == 1
        found = settled(served, "slow")
        assert found["tuning_state"] == "settled"
        assert threads(served, "slow") >= 1


@pytest.mark.full
def test_what_is_fixed_stays_fixed(tmp_path: Path) -> None:
    arguments = [*auto(*model("sized.py", "Threaded")), "--set", "threaded.threads=1"]
    with serving(tmp_path, *arguments) as served:
        found = settled(served, "threaded")
        assert {size.split("=")[0].split("x")[1] for size in found["tuning_rows_per_s"].split()} == {"1"}
        assert threads(served, "threaded") == 1


def test_on_another_device_nothing_is_measured(tmp_path: Path) -> None:
    with serving(tmp_path, *auto(*model("sized.py", "Threaded")), "--devices", "cuda:0") as served:
        found = told(served, "threaded")
        assert found["tuning_state"] == "settled"
        assert "cuda:0" in found["tuning_reason"]
        assert len(served.instances()) == 1


def test_the_server_stops_well_while_it_measures(tmp_path: Path) -> None:
    with serving(tmp_path, *auto(*model("sized.py", "Threaded")), group=True) as served:
        eventually(lambda: served.logged(MEASURING) and trials(served), "it measures")
        children = psutil.Process(served.process.pid).children(recursive=True)
        served.stop()
        gone(children)


def test_nothing_of_the_measuring_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, *auto(*model("sized.py", "Threaded"))) as served:
        eventually(lambda: served.logged(MEASURING) and trials(served), "it measures")
        children = psutil.Process(served.process.pid).children(recursive=True)
        served.process.kill()
        served.process.wait(10)
        gone(children)


@pytest.mark.full
def test_an_unload_and_a_reload_end_the_measuring_of_what_was_loaded(tmp_path: Path) -> None:
    models = tmp_path / "models"
    repository.put(models, 1)
    with serving(tmp_path, *auto(str(models))) as served:
        eventually(lambda: trials(served), "it measures")
        before = trials(served)
        repository.put(models, 1, 2)
        assert repository.control(served, "load").status_code == 200
        gone(before)
        eventually(lambda: trials(served), "the newer files are measured")
        before = trials(served)
        assert repository.control(served, "unload").status_code == 200
        gone(before)
        assert repository.control(served, "load").status_code == 200
        assert repository.ask(served) == 2
        settled(served, "told")
        assert repository.ask(served) == 2


def test_requests_come_first(tmp_path: Path) -> None:
    with serving(tmp_path, *auto(*model("sized.py", "Threaded"))) as served, ThreadPoolExecutor(CORES) as pool:
        stop = threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                assert served.infer("threaded", [-1.0]).status_code == 200

        busy = [pool.submit(keep_busy) for _ in range(CORES)]
        try:
            eventually(lambda: served.logged("put off") or served.logged("leave the machine idle"), "it waits", 30)
            assert told(served, "threaded")["tuning_state"] == "waiting"
            eventually(lambda: trials(served) == [], "nothing is measured")
        finally:
            stop.set()
        for future in busy:
            future.result()
