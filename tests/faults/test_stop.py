"""SIGTERM: ready turns false, what was admitted is answered, then the process ends with 0."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.e2e import repository
from tests.e2e.repository import ask, control, put
from tests.e2e.server import ROOT, Served, body, eventually, gone, model, quick, serving, values
from tests.e2e.wire import request, wire

SLEEP = f"{ROOT / 'examples' / 'sleep.py'}:Sleep"
PAUSE = "/v2/models/pause/infer"


@pytest.mark.parametrize("lane", ["auto", "off"])
def test_sigterm_under_load_answers_all_that_was_admitted(tmp_path: Path, lane: str) -> None:
    with serving(tmp_path, *quick(SLEEP), "--express-lane", lane) as served:
        answers: list[tuple[float, httpx.Response]] = []
        cut: list[httpx.TransportError] = []
        stop = threading.Event()

        def client(number: int) -> None:
            count = 0
            with httpx.Client(base_url=served.http.base_url, timeout=30) as http:
                while not stop.is_set():
                    value = float(number * 1000 + count)
                    count += 1
                    try:
                        sent = body([value], timeout=20_000_000)
                        answers.append((value, http.post("/v2/models/sleep/infer", json=sent)))
                    except httpx.ConnectError:
                        return  # no longer listening
                    except httpx.TransportError as error:
                        cut.append(error)
                        return

        children = served.instances()
        with ThreadPoolExecutor(24) as pool:
            clients = [pool.submit(client, number) for number in range(24)]
            eventually(lambda: len(answers) > 100, "the load runs")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(30) == 0
            stop.set()
            for future in clients:
                future.result()
        gone(children)
        for value, answer in answers:
            if answer.status_code == 200:
                assert values(answer) == [value]
            else:
                assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        # An idle keep-alive connection may be closed while the client is writing to it; nothing was read then. An
        # answer that was begun is never cut short.
        assert all(isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError) for error in cut)
        assert not any("incomplete" in str(error) for error in cut), cut
        counted = sum(answer.status_code == 200 for _, answer in answers)
        assert counted > 100
        assert "Traceback" not in served.output


@pytest.mark.parametrize("lane", ["auto", "off"])
def test_a_request_that_runs_at_sigterm_is_answered(tmp_path: Path, lane: str) -> None:
    with (
        serving(tmp_path, *quick(*model("faulty.py", "Pause")), "--express-lane", lane) as served,
        wire(served.port) as connection,
        wire(served.port) as idle,
    ):
        assert idle.send(request("/healthz")).reply().status == 200
        connection.send(request(PAUSE, body([1000.0])), request(PAUSE, body([1.0])))
        eventually(lambda: served.in_flight("pause") >= 1, "it runs")
        served.process.send_signal(signal.SIGTERM)
        reply = connection.reply()
        assert reply.status == 200
        assert reply.json()["outputs"][0]["data"] == [1000.0]
        assert idle.closed()
        assert served.process.wait(30) == 0


def test_a_request_that_outlasts_the_drain_does_not_hold_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Pause")), "--drain-timeout-s", "1") as served:
        children = served.instances()
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(served.infer, "pause", [60_000.0], timeout=60_000_000)
            eventually(lambda: served.in_flight("pause") == 1, "it runs")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 0
            try:
                assert busy.result().status_code >= 500
            except httpx.TransportError:
                pass
        gone(children)
        assert "Traceback" not in served.output


def test_a_second_sigterm_does_not_lose_the_first(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Pause"))) as served:
        children = served.instances()
        served.process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) in (0, -signal.SIGTERM)
        gone(children)


def test_ctrl_c_ends_like_sigterm(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Pause"))) as served:
        assert values(served.infer("pause", [1.0])) == [1.0]
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0
        assert "Traceback" not in served.output


HANGING = """
import os, threading
from forebay.cli.main import main
from forebay.embedding import composition
from forebay.repository import registry

look = registry.look

def hangs(files):
    if os.path.exists("hang"):
        open("hangs", "w").close()
        threading.Event().wait()
    return look(files)

composition.LEFT_S = 0.2
registry.look = hangs
main()
"""
"""The command, on a file system that hangs once there is a file called hang."""


def test_a_thread_that_hangs_does_not_hold_the_server(tmp_path: Path) -> None:
    put(tmp_path / "models", 1)
    served = Served(tmp_path, *repository.arguments(tmp_path / "models"), root=[sys.executable, "-c", HANGING])
    try:
        served.wait_ready()
        (tmp_path / "hang").touch()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(control, served, "load")
            eventually((tmp_path / "hangs").exists, "a thread hangs")
            assert ask(served) == 1
            served.stop()
            assert (load.result().status_code, load.result().json()["code"]) == (503, "draining")
        served.wait_logged("Event.wait < hangs")
    finally:
        served.close()


def test_a_server_that_starts_again_takes_the_same_port(tmp_path: Path) -> None:
    with serving(tmp_path / "a", *quick(*model("faulty.py", "Pause"))) as first:
        port = first.port
        assert values(first.infer("pause", [1.0])) == [1.0]
    again = Served(tmp_path / "b", *quick(*model("faulty.py", "Pause")), port=port)
    try:
        again.wait_ready()
        assert again.port == port
        assert values(again.infer("pause", [1.0])) == [1.0]
        again.stop()
    finally:
        again.close()
