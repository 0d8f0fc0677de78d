"""Two models on the same cores: neither starves, pauses happen and end, and nothing stays stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.server import Served, eventually, gone, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cores are shared on Linux only")

MODEL = '''
import time

import numpy as np

import forebay


class {name}(forebay.Model):
    """Computes for {seconds} s a batch, on its own clock of processor time."""

    inputs = {{"x": ("FP32", [1])}}
    outputs = {{"y": ("FP32", [1])}}
    max_batch_rows = 4
    warm_up_s = 0.2

    def predict(self, x):
        until = time.thread_time() + {seconds}
        while time.thread_time() < until:
            np.sqrt(x)
        return x
'''


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """A heavy one and a light one."""
    return [model(tmp_path, "Heavy", 0.05), model(tmp_path, "Light", 0.005)]


def model(folder: Path, name: str, seconds: float) -> str:
    """Its file is written; returns what `forebay serve` calls it by."""
    file = folder / f"{name.lower()}.py"
    file.write_text(MODEL.format(name=name, seconds=seconds))
    return f"{file}:{name}"


def arguments(models: list[str], *more: str) -> list[str]:
    """As many instances of each as there are cores: together twice as many."""
    return [*models, "--set", f"*.instances={len(os.sched_getaffinity(0))}", *more]


def stopped(served: Served) -> bool:
    """Whether an instance stands still at this moment."""
    found = False
    for process in served.instances():
        try:
            found |= process.status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            continue
    return found


def cores_of(served: Served) -> set[frozenset[int]]:
    """The cores that its instances may run on, whatever thread of theirs."""
    found = set()
    for process in served.instances():
        with suppress(OSError, psutil.NoSuchProcess):
            found |= {frozenset(os.sched_getaffinity(thread.id)) for thread in process.threads()}
    return found


@contextmanager
def overload(
    served: Served, model: str, clients: int = 8 * len(os.sched_getaffinity(0))
) -> Iterator[list[httpx.Response]]:
    """So many clients that ask a model without a pause until the block ends; their answers."""
    answers: list[httpx.Response] = []
    end = threading.Event()

    def client() -> None:
        while not end.is_set():
            answers.append(served.infer(model, [1.0]))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for one in threads:
        one.start()
    try:
        yield answers
    finally:
        end.set()
        for one in threads:
            one.join()


def test_neither_starves_and_nothing_stays_stopped(models: list[str], tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        with overload(served, "heavy") as heavy:
            eventually(lambda: heavy, "the heavy model answers")
            for value in range(60):
                answer = served.infer("light", [float(value)])
                assert answer.json()["outputs"][0]["data"] == [float(value)]
            before = len(heavy)
            with overload(served, "light") as light:
                eventually(lambda: stopped(served), "an instance is paused for another")
                eventually(lambda: len(heavy) > before + 8 and len(light) > 60, "both go on", 60.0)
        assert {answer.status_code for answer in (*heavy, *light)} == {200}
        assert not stopped(served)
        assert served.infer("heavy", [2.0]).status_code == served.infer("light", [2.0]).status_code == 200


def test_a_killed_server_leaves_no_stopped_process(models: list[str], tmp_path: Path) -> None:
    served = Served(tmp_path, *arguments(models)).wait_ready()
    children = served.instances()
    ended = threading.Event()

    def client(model: str) -> None:
        while not ended.is_set():
            try:
                served.infer(model, [1.0])
            except httpx.TransportError:
                return

    clients = [threading.Thread(target=client, args=(name,)) for name in ("heavy", "light") * 12]
    for one in clients:
        one.start()
    try:
        eventually(lambda: stopped(served), "an instance is paused")
        served.process.send_signal(signal.SIGKILL)
        gone(children)
    finally:
        ended.set()
        for one in clients:
            one.join()
        served.close()


def test_a_model_is_unloaded_while_it_is_paused(models: list[str], tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models)) as served:
        with overload(served, "light") as light, overload(served, "heavy") as heavy:
            eventually(lambda: stopped(served), "an instance is paused")
            assert served.http.post("/v2/repository/models/heavy/unload").status_code == 200
            eventually(lambda: len(served.instances()) == len(os.sched_getaffinity(0)), "its processes end", 60.0)
        # Those that were let in were answered; there is no such model for those that came later.
        assert {answer.status_code for answer in heavy} <= {200, 404}
        assert {answer.status_code for answer in light} == {200}
        assert not stopped(served)


@pytest.mark.full
def test_off_leaves_it_to_the_operating_system(models: list[str], tmp_path: Path) -> None:
    with serving(tmp_path, *arguments(models, "--fair-cores", "off")) as served:
        with overload(served, "heavy") as heavy, overload(served, "light") as light:
            while len(heavy) < 40 or len(light) < 40:
                assert not stopped(served)
        assert {answer.status_code for answer in (*heavy, *light)} == {200}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is no core to spare")
def test_a_core_is_kept_free_of_instances_while_a_model_is_back_at_once(tmp_path: Path) -> None:
    every = frozenset(os.sched_getaffinity(0))
    models = [model(tmp_path, "Heavy", 0.05), model(tmp_path, "Light", 0.0002)]
    with serving(tmp_path, *arguments(models)) as served:
        assert cores_of(served) == {every}

        with overload(served, "heavy") as heavy:
            with overload(served, "light", 3) as light:
                eventually(lambda: cores_of(served) == {every - {min(every)}}, "all keep off the first", 60.0)
            before = len(heavy)
            eventually(lambda: cores_of(served) == {every}, "they do no longer: the light model is not asked")
            eventually(lambda: len(heavy) > before + 8, "the heavy model goes on")
        assert {answer.status_code for answer in (*heavy, *light)} == {200}


@pytest.mark.full
def test_conserving_keeps_no_core_free(tmp_path: Path) -> None:
    every = frozenset(os.sched_getaffinity(0))
    models = [model(tmp_path, "Heavy", 0.05), model(tmp_path, "Light", 0.0002)]
    with serving(tmp_path, *arguments(models, "--fair-cores", "conserving")) as served:
        with overload(served, "heavy") as heavy, overload(served, "light", 3) as light:
            while len(light) < 500:
                assert cores_of(served) == {every}
        assert {answer.status_code for answer in (*heavy, *light)} == {200}
