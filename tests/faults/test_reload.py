"""Reloading under load: every answer comes from one version, none is lost, memory does not grow."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.e2e import repository
from tests.e2e.server import Served, body, eventually, serving

ROWS = 5


def client(served: Served, seed: int, stop: threading.Event, in_place: bool) -> Counter[int]:
    """Asks until `stop`; counts which version answered. Anything but a whole answer of one version raises."""
    seen: Counter[int] = Counter()
    with httpx.Client(base_url=served.http.base_url, timeout=30) as http:
        while not stop.is_set():
            rows = [float(seed % 7)] * (1 + seed % ROWS)
            answer = http.post("/v2/models/told/infer", json=body(rows))
            version = repository.told(answer)
            assert answer.json()["model_version"] == ("1" if in_place else str(version))
            seen[version] += 1
    return seen


def settled_bytes(served: Served) -> float:
    """Memory of the process tree while one version is loaded: the median of several looks."""
    eventually(lambda: len(served.instances()) == 1, "the old version's processes have ended")
    looks = []
    for _ in range(5):
        looks.append(repository.resident_bytes(served))
        time.sleep(0.02)
    return statistics.median(looks)


@pytest.mark.parametrize(
    ("lane", "in_place", "reloads", "every_s"),
    [
        ("auto", False, 12, 0.5),
        ("auto", True, 8, 0.5),
        pytest.param("off", False, 60, 2.0, marks=pytest.mark.full),
        pytest.param("auto", False, 60, 2.0, marks=pytest.mark.full),
        pytest.param("auto", True, 60, 2.0, marks=pytest.mark.full),
    ],
)
@pytest.mark.timeout(400)
def test_reloads_under_load_lose_no_request_and_no_memory(
    tmp_path: Path, lane: str, in_place: bool, reloads: int, every_s: float
) -> None:
    models = tmp_path / "models"
    repository.put(models, 1)
    with serving(tmp_path, *repository.arguments(models, "--express-lane", lane)) as served:
        stop = threading.Event()
        sizes: list[float] = []
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, served, seed, stop, in_place) for seed in range(8)]
            try:
                for version in range(2, 2 + reloads):
                    began = time.monotonic()
                    repository.put(models, 1 if in_place else version, version)
                    answer = repository.control(served, "load")
                    assert answer.status_code == 200, answer.text
                    if not in_place:
                        repository.drop(models, version - 1)
                    sizes.append(settled_bytes(served))
                    assert not any(future.done() for future in clients)
                    time.sleep(max(0.0, every_s - (time.monotonic() - began)))
            finally:
                stop.set()
            seen = sum((future.result() for future in clients), Counter[int]())
        assert set(seen) == set(range(1, 2 + reloads)), "every version has answered"
        last_version = "1" if in_place else str(1 + reloads)
        eventually(lambda: repository.states(served) == {last_version: "READY"}, "those that are gone are forgotten")
        metrics = served.http.get("/metrics").text
        assert set(re.findall(r'version="(\d+)"', metrics)) == {last_version}
        if in_place:
            counted = served.metric("forebay_requests_total", "told")
            assert counted == sum(seen.values()), "a reload of the same version counts on"
        warm = reloads // 4
        first, last = statistics.median(sizes[warm : 2 * warm]), statistics.median(sizes[-warm:])
        print(f"{sum(seen.values())} answers, {reloads} reloads, {first / 2**20:.1f} -> {last / 2**20:.1f} MiB")
        assert last < 1.03 * first, sizes
