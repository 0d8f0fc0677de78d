"""Processes that are killed: instances come back, nobody gets a wrong answer, and nothing outlives the server."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.server import ROOT, Served, body, eventually, gone, model, quick, serving, values

SLEEP = f"{ROOT / 'examples' / 'sleep.py'}:Sleep"


def load(served: Served, name: str, stop: threading.Event, clients: int) -> list[tuple[float, httpx.Response]]:
    """So many closed-loop clients until `stop`; every (value sent, answer)."""
    seen: list[tuple[float, httpx.Response]] = []

    def client(number: int) -> None:
        count = 0
        while not stop.is_set():
            value = float(number * 10_000 + count)
            seen.append((value, served.infer(name, [value], timeout=30_000_000)))
            count += 1

    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client, number) for number in range(clients)]:
            future.result()
    return seen


def kill_under_load(served: Served, name: str, kills: int, clients: int = 16) -> list[tuple[float, httpx.Response]]:
    """kill -9 of an instance, again and again, each time after the one before is replaced."""
    wanted = len(served.instances())
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(load, served, name, stop, clients)
        try:
            for number in range(kills):
                eventually(lambda: served.in_flight(name) > 0, "the model is at work")
                victim = served.instances()[number % wanted]
                victim.kill()
                gone([victim])
                # Point 7 of the plan measures how soon; here it only has to happen.
                eventually(lambda: served.metric("forebay_instances_ready", name) == wanted, "all instances are back")
                assert len(served.instances()) == wanted
        finally:
            stop.set()
        return answers.result()


def all_right(answers: list[tuple[float, httpx.Response]]) -> None:
    assert answers
    for value, answer in answers:
        assert values(answer) == [value]


def test_kill_9_of_an_instance_at_load_is_not_seen_by_any_client(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(SLEEP, instances=2)) as served:
        all_right(kill_under_load(served, "sleep", kills=2))
        assert served.metric("forebay_instance_deaths_total", "sleep") == 2


def test_kill_9_of_the_only_instance_at_load_is_not_seen_by_any_client(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(SLEEP)) as served:
        all_right(kill_under_load(served, "sleep", kills=2))


def test_kill_9_of_all_instances_at_once_is_not_seen_by_any_client(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(SLEEP, instances=4)) as served:
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(load, served, "sleep", stop, 16)
            try:
                eventually(lambda: served.in_flight("sleep") > 0, "the model is at work")
                victims = served.instances()
                for victim in victims:
                    victim.kill()
                gone(victims)
                eventually(lambda: served.metric("forebay_instances_ready", "sleep") == 4, "all are back")
            finally:
                stop.set()
            all_right(answers.result())


@pytest.mark.full
@pytest.mark.timeout(300)
def test_thirty_kills_at_load_are_not_seen_by_any_client(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(SLEEP, instances=2)) as served:
        for _ in range(5):
            all_right(kill_under_load(served, "sleep", kills=6))
            # A few deaths in half a minute are free; more make replacements wait, which is another test.
            eventually(lambda: served.http.get("/v2/models/sleep/ready").status_code == 200, "it is ready")
            threading.Event().wait(31)


def test_the_only_instance_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Faulty"))) as served:
        (victim,) = served.instances()
        victim.kill()
        gone([victim])
        # Asked at once, before the replacement is up: the request waits for it.
        assert values(served.infer("faulty", [3.0])) == [6.0]
        (replacement,) = served.instances()
        assert replacement.pid != victim.pid


def test_the_death_of_an_instance_whose_helpers_live_on_is_noticed(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Forks"))) as served:
        victim, helper = served.instances()  # the helper looks like its parent; it is the younger one
        try:
            victim.kill()
            gone([victim])
            assert values(served.infer("forks", [3.0])) == [6.0]
            assert helper.is_running()
        finally:
            for child in [helper, *served.instances()[1:]]:
                child.kill()


def test_a_stopped_instance_is_given_up_at_the_deadline_and_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Faulty"))) as served:
        (victim,) = served.instances()
        victim.suspend()
        answer = served.infer("faulty", [3.0], timeout=500_000)
        assert (answer.status_code, answer.json()["stage"]) == (504, "executing")
        assert values(served.infer("faulty", [4.0])) == [8.0]
        gone([victim])


def test_a_model_that_dies_at_every_call_fails_its_requests_keeps_the_server_and_heals(tmp_path: Path) -> None:
    models = model("faulty.py", "Broken", "Faulty")
    with serving(tmp_path, *quick(*models)) as served:
        (tmp_path / "exit").touch()
        answer = served.infer("broken", [1.0], timeout=20_000_000)
        assert (answer.status_code, answer.json()["code"]) in ((500, "instance_crashed"), (503, "model_not_ready"))
        eventually(lambda: served.http.get("/v2/models/broken/ready").status_code == 503, "the model is given up")
        refused = served.infer("broken", [1.0])
        assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert served.http.get("/readyz").status_code == 503
        assert served.http.get("/healthz").status_code == 200
        assert values(served.infer("faulty", [2.0])) == [4.0], "the other model is not touched"
        (tmp_path / "exit").unlink()
        eventually(lambda: served.ready(), "the model is back", 60)
        assert values(served.infer("broken", [2.0])) == [4.0]


def test_an_instance_that_dies_while_it_loads_again_is_tried_again(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Loading"))) as served:
        (tmp_path / "die").touch()
        (victim,) = served.instances()
        victim.kill()
        eventually(lambda: served.metric("forebay_instance_deaths_total", "loading") >= 2, "it dies while loading")
        (tmp_path / "die").unlink()
        eventually(lambda: served.metric("forebay_instances_ready", "loading") == 1, "it is back", 60)
        eventually(served.ready, "the server is ready")
        assert values(served.infer("loading", [2.0])) == [4.0]


def test_kill_9_of_the_server_leaves_no_instance(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Faulty", "Pause"), instances=2)) as served:
        children = served.instances()
        assert len(children) == 4
        with httpx.Client() as client, ThreadPoolExecutor(1) as pool:
            busy = pool.submit(
                client.post, f"http://127.0.0.1:{served.port}/v2/models/pause/infer", json=body([60_000.0])
            )
            eventually(lambda: served.in_flight("pause") == 1, "an instance is busy")
            served.process.kill()
            with pytest.raises(httpx.TransportError):
                busy.result()
        served.process.wait(10)
        gone(children)


def test_sigterm_to_the_whole_group_is_a_drain_like_any_other(tmp_path: Path) -> None:
    # What a service manager does, and what Ctrl-C in a terminal does.
    with serving(tmp_path, *quick(*model("faulty.py", "Pause")), group=True) as served:
        children = served.instances()
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(served.infer, "pause", [800.0])
            eventually(lambda: served.in_flight("pause") == 1, "it runs")
            os.killpg(served.process.pid, signal.SIGTERM)
            assert values(busy.result()) == [800.0]
        assert served.process.wait(30) == 0
        gone(children)
        assert "Traceback" not in served.output


def test_a_replaced_instance_leaves_no_file_open(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Faulty"))) as served:
        web = psutil.Process(served.process.pid)
        assert values(served.infer("faulty", [1.0])) == [2.0]
        before = web.num_fds()
        for _ in range(3):
            (victim,) = served.instances()
            victim.kill()
            gone([victim])
            assert values(served.infer("faulty", [1.0])) == [2.0]
        eventually(lambda: web.num_fds() <= before, f"at most {before} files are open")
