"""Faults around the cache: a stampede, a failure, and a store that is killed or paused under load (FAULTS 29)."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.contract.jobs.redis_servers import Server, free_port, valkey
from tests.e2e.server import Served, eventually, model, quick, serving
from tests.e2e.test_cache_shared import CACHED, ask, run_of, runs
from tests.models.tallied import FIRST, RAISES

REQUESTS = 1000


def test_a_stampede_is_one_inference_and_everybody_gets_it(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("tallied.py", "Tallied")), *CACHED) as served:
        (tmp_path / "hold").touch()
        with ThreadPoolExecutor(200) as pool:
            answers = [pool.submit(ask, served, FIRST) for _ in range(REQUESTS)]
            eventually(lambda: runs(tmp_path, FIRST), "it runs")
            (tmp_path / "hold").unlink()
            assert len({run_of(answer.result()) for answer in answers}) == 1
        assert runs(tmp_path, FIRST) == 1


def test_a_failure_is_everybodys_and_is_not_kept(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("tallied.py", "Tallied")), *CACHED) as served:
        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda _: ask(served, RAISES), range(64)))
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(500, "model_error")}
        before = runs(tmp_path, RAISES)
        assert ask(served, RAISES).status_code == 500
        assert runs(tmp_path, RAISES) > before


class Load:
    """Clients that ask without a pause, some again and again the same, until they are told to stop."""

    def __init__(self, served: Served) -> None:
        self.answers: list[tuple[float, httpx.Response]] = []
        self.stop = threading.Event()
        self._served = served

    def client(self, number: int) -> None:
        """One of them."""
        sent = 0
        while not self.stop.is_set():
            value = FIRST + 10 + (sent * 7 + number) % 50 + number % 2 * sent
            self.answers.append((value, ask(self._served, value)))
            sent += 1

    def goes_on(self) -> None:
        """Wait until many more are answered."""
        before = len(self.answers)
        eventually(lambda: len(self.answers) > before + 200, "answers go on")


@pytest.mark.parametrize("trouble", ["killed", "paused"])
def test_a_store_in_trouble_costs_no_answer(tmp_path: Path, trouble: str) -> None:
    with Server(valkey(), free_port()) as store:
        arguments = [*quick(*model("tallied.py", "Tallied"), instances=2), *CACHED, "--cache-store", store.url]
        arguments += ["--cache-store-timeout-ms", "500"]  # a busy machine is no trouble
        with serving(tmp_path, *arguments) as served:
            load = Load(served)
            with ThreadPoolExecutor(16) as pool:
                clients = [pool.submit(load.client, number) for number in range(16)]
                try:
                    load.goes_on()
                    for _ in range(2):
                        _trouble_once(store, served, load, trouble)
                finally:
                    load.stop.set()
                for client in clients:
                    client.result()
            assert [(value, answer.text) for value, answer in load.answers if answer.status_code != 200] == []
            assert all(answer.json()["outputs"][0]["data"] == [2 * value + 1] for value, answer in load.answers)


def _trouble_once(store: Server, served: Served, load: Load, trouble: str) -> None:
    failed, alone, again = (
        _errors(served),
        _times(served, "left alone for a while"),
        _times(served, "can be used again"),
    )
    if trouble == "killed":
        store.kill()
    else:
        store.process.send_signal(signal.SIGSTOP)
    # One call that fails is not enough for that, and only a store that was left alone is said to be used again.
    eventually(lambda: _times(served, "left alone for a while") > alone, "the store is missed", within_s=60)
    assert _errors(served) > failed
    load.goes_on()
    if trouble == "killed":
        store.start()
    else:
        store.process.send_signal(signal.SIGCONT)
    eventually(lambda: _times(served, "can be used again") > again, "the store is used again", within_s=60)
    load.goes_on()


def _errors(served: Served) -> float:
    lines = served.http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("forebay_cache_store_errors_total"))


def _times(served: Served, words: str) -> int:
    return sum(words in line for line in list(served.lines))
