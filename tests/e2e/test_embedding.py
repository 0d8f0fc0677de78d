"""Forebay inside somebody else's program: an engine to await, an app under any ASGI server, a script that serves."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from tests.e2e.server import MODELS, environment, eventually
from tests.models.faulty import RAISES, Faulty, Pause
from tests.models.package.scaled import Scaled
from tests.models.plain import Centred, Echo, Texts

import forebay
import forebay.testing
from forebay.api.webhook_secrets import new_secret
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError, RequestError, SetupError
from forebay.embedding.engine import EmbeddedEngine

QUICK: dict[str, Any] = {"instances": 1, "warm_up_s": 0.1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models write into a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOREBAY_TEST_FOLDER", str(tmp_path))


# -- an engine to await -----------------------------------------------------------------------------------------------


@pytest.fixture
async def engine() -> AsyncIterator[EmbeddedEngine]:
    async with forebay.open_engine(Faulty, Pause, Texts, Scaled, Echo, **QUICK) as opened:
        yield opened


async def test_arrays_in_arrays_out(engine: EmbeddedEngine) -> None:
    assert sorted(engine.models) == ["echo", "faulty", "pause", "scaled", "texts"]
    out = await engine.infer({"x": np.array([[1.5], [2.0]], np.float32)}, model="faulty")
    assert out["y"].dtype == np.float32
    assert out["y"].tolist() == [[3.0], [4.0]]
    kept = out["y"]
    await asyncio.gather(*(engine.infer({"x": [[float(n)]]}, model="faulty") for n in range(20, 60)))
    assert kept.tolist() == [[3.0], [4.0]], "an answer is the caller's own"
    assert (await engine.infer({"x": [[2]]}, model="scaled"))["y"].tolist() == [[6.0]]
    assert (await engine.infer({"x": np.zeros((0, 1), np.float32)}, model="scaled"))["y"].shape == (0, 1)


async def test_many_callers_share_batches(engine: EmbeddedEngine, tmp_path: Path) -> None:
    before = len((tmp_path / "faulty.calls").read_text().split())
    answers = await asyncio.gather(*(engine.infer({"x": [[float(n)]]}, model="faulty") for n in range(1000, 1200)))
    assert [float(out["y"][0, 0]) for out in answers] == [2.0 * n for n in range(1000, 1200)]
    assert len((tmp_path / "faulty.calls").read_text().split()) - before < 100


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "missing"),
        ({"x": [[1.0]], "z": [[1.0]]}, "no input 'z'"),
        ({"x": [1.0]}, "expected shape"),
        ({"x": [["text"]]}, "FP32"),
        ({"x": [[1j]]}, "FP32"),
        ({"x": [[1.0], [1.0, 2.0]]}, "FP32"),
        ({"x": [[1e39]]}, "beyond that range"),
        ({"x": np.ma.masked_array(np.ones((1, 1), np.float32), mask=True)}, "masked array.*fill it first"),
    ],
)
async def test_what_does_not_fit_is_named(engine: EmbeddedEngine, inputs: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        await engine.infer(inputs, model="faulty")


async def test_errors_are_those_of_the_protocol(engine: EmbeddedEngine) -> None:
    with pytest.raises(ExecutionError, match="13 is not") as raised:
        await engine.infer({"x": [[RAISES]]}, model="faulty")
    assert raised.value.code == "model_error"
    with pytest.raises(RequestError, match="say which model"):
        await engine.infer({"x": [[1.0]]})
    with pytest.raises(RequestError, match="no model 'none'"):
        await engine.infer({"x": [[1.0]]}, model="none")
    with pytest.raises(DeadlineExceeded):
        await engine.infer({"x": [[700.0]]}, model="pause", timeout_s=0.2)
    for timeout_s in (-1.0, float("nan"), "1"):
        with pytest.raises(RequestError, match="timeout_s must be 0 or more"):
            await engine.infer({"x": [[1.0]]}, model="faulty", timeout_s=timeout_s)  # type: ignore[arg-type]


async def test_whole_numbers_are_those_of_any_type_that_holds_them(engine: EmbeddedEngine) -> None:
    sent: dict[str, Any] = {name: [[1, 2]] for name in (spec.name for spec in engine.signature("echo").inputs)}
    sent["in_bool"], sent["in_bytes"] = [[True, False]], [["a", "b"]]
    out = await engine.infer(sent, model="echo")
    assert out["out_uint8"].tolist() == out["out_uint64"].tolist() == [[1, 2]]
    for name, beyond in (("in_uint8", 256), ("in_uint64", -1), ("in_fp16", 70_000), ("in_int8", np.uint8(200))):
        with pytest.raises(RequestError, match="beyond that range"):
            await engine.infer({**sent, name: np.array([[1, beyond]])}, model="echo")


async def test_another_event_loop_is_told_where_to_ask(engine: EmbeddedEngine) -> None:
    def elsewhere() -> None:
        asyncio.run(engine.infer({"x": [[1.0]]}, model="faulty"))

    with pytest.raises(RequestError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(elsewhere)
    loop = asyncio.get_running_loop()

    def here() -> Any:
        return asyncio.run_coroutine_threadsafe(engine.infer({"x": [[1.0]]}, model="faulty"), loop).result(30)

    assert (await asyncio.to_thread(here))["y"].tolist() == [[2.0]]


async def test_a_cancelled_await_is_a_cancelled_request(engine: EmbeddedEngine, tmp_path: Path) -> None:
    def calls() -> list[str]:
        return (tmp_path / "pause.calls").read_text().split()

    before = len(calls())
    # One runs, one may wait at the instance already, one is in the queue.
    runs = asyncio.ensure_future(engine.infer({"x": [[400.0]]}, model="pause"))
    while len(calls()) == before:
        await asyncio.sleep(0.01)
    near = asyncio.ensure_future(engine.infer({"x": [[1.0]]}, model="pause"))
    await asyncio.sleep(0.05)
    queued = asyncio.ensure_future(engine.infer({"x": [[2.0]]}, model="pause"))
    await asyncio.sleep(0.05)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert (await runs)["y"].tolist() == [[400.0]]
    assert (await near)["y"].tolist() == [[1.0]]
    assert sum(map(int, calls()[before:])) == 2, "a row that was cancelled in the queue never ran"


async def test_models_come_and_go(engine: EmbeddedEngine) -> None:
    await engine.unload("scaled")
    with pytest.raises(RequestError):
        await engine.infer({"x": [[1.0]]}, model="scaled")
    await engine.load("scaled")
    assert (await engine.infer({"x": [[1.0]]}, model="scaled"))["y"].tolist() == [[3.0]]
    assert engine.not_ready == []


# -- what cannot work -------------------------------------------------------------------------------------------------


def test_a_class_that_another_process_cannot_import_is_refused() -> None:
    class Local(forebay.Model):
        """Inside a function."""

    with pytest.raises(SetupError, match="at the top of"):
        forebay.create_app(Local)
    made: dict[str, Any] = {}
    exec("import forebay\nclass Shell(forebay.Model): pass", made)
    with pytest.raises(SetupError, match="notebook"):
        forebay.create_app(made["Shell"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"prot": 1}, "did you mean 'port'"), ({"port": "x"}, "port"), ({"threads": 0}, "threads")],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        forebay.create_app(Centred, **settings)


def test_neither_the_environment_nor_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forebay.toml").write_text("not toml")
    monkeypatch.setenv("FOREBAY_NONSENSE", "1")
    forebay.create_app(Centred)
    with pytest.raises(SetupError, match="FOREBAY_NONSENSE"):
        forebay.create_app(Centred, environ=os.environ)
    with pytest.raises(SetupError, match="not valid TOML"):
        forebay.create_app(Centred, config=tmp_path / "forebay.toml")


# -- an app -----------------------------------------------------------------------------------------------------------


async def test_an_app_inside_a_users_app() -> None:
    models = forebay.create_app(Centred, **QUICK)
    app = FastAPI(lifespan=forebay.lifespan_of(models))

    @app.get("/mine/{value}")
    async def mine(value: float) -> Any:
        return (await models.state.engine.infer({"x": [[value], [value + 2]]}))["y"].tolist()

    app.mount("/models", models)
    infer = "/models/v2/models/centred/infer"
    row = {"input": {"x": [1.0]}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        early = await http.post(infer, json=row)
        assert (early.status_code, early.json()["code"]) == (503, "model_not_ready")
        assert "lifespan" in early.json()["error"]
        assert (await http.get("/models/readyz")).status_code == 503
        async with app.router.lifespan_context(app):
            assert (await http.post(infer, json=row)).status_code == 200
            assert (await http.get("/mine/5")).json() == [[-1.0], [1.0]]
            assert (await http.get("/models/readyz")).status_code == 200
            control = await http.post("/models/v2/repository/models/centred/unload")
            assert control.status_code == 403, "whether strangers can call, this app cannot know"
        with pytest.raises(AdmissionError):
            await models.state.engine.infer({"x": [[1.0]]})
        with pytest.raises(SetupError, match="make a new app"):
            async with app.router.lifespan_context(app):
                pass


@pytest.mark.parametrize(("settings", "status"), [({}, 400), ({"jobs_private_webhooks": "on"}, 202)])
async def test_an_app_that_cannot_know_who_calls_it_calls_nobody_nearby(
    tmp_path: Path, settings: dict[str, Any], status: int
) -> None:
    (tmp_path / "secrets").write_text(new_secret())
    app = forebay.create_app(Centred, jobs_webhook_secrets=tmp_path / "secrets", **settings, **QUICK)
    job = {"input": {"x": [1.0]}, "webhook": "http://127.0.0.1:9/hook"}
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/models/centred/jobs", json=job)
        assert answer.status_code == status, answer.text


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


SERVERS = {
    "uvicorn": ["-m", "uvicorn", "app:app", "--port", "PORT"],
    "hypercorn": ["-m", "hypercorn", "app:app", "--bind", "127.0.0.1:PORT"],
    "granian": ["-m", "granian", "--interface", "asgi", "app:app", "--port", "PORT"],
}


@contextlib.contextmanager
def started(folder: Path, arguments: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """A Python command in `folder` that answers at the port; it must end by itself after SIGTERM."""
    command = [sys.executable, *(text.replace("PORT", str(port)) for text in arguments)]
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=out, text=True)

    def ready() -> bool:
        assert process.poll() is None, (folder / "out").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(ready, "it is ready", 60)
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_an_app_under_any_asgi_server(tmp_path: Path, server: str) -> None:
    """uvicorn runs the next one."""
    pytest.importorskip(server)
    source = f"import forebay\napp = forebay.create_app({str(MODELS / 'plain.py') + ':Centred'!r}, warm_up_s=0.1)\n"
    (tmp_path / "app.py").write_text(source)
    port = free_port()
    with started(tmp_path, SERVERS[server], port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for value in range(20):
            body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [value, value + 2]}]}
            answer = http.post("/v2/models/centred/infer", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == [-1.0, 1.0]
        assert http.post("/v2/models/none/infer", json={}).status_code == 404


def test_an_app_in_the_file_of_its_class(tmp_path: Path) -> None:
    """An instance imports the whole file: the app, and what is taken from it."""
    lines = ["models = forebay.create_app(Mine, warm_up_s=0.1)", "engine = models.state.engine"]
    lines += ["app = FastAPI(lifespan=forebay.lifespan_of(models))", 'app.mount("", models)']
    (tmp_path / "app.py").write_text("from fastapi import FastAPI\n" + SCRIPT + "\n".join(lines))
    port = free_port()
    with started(tmp_path, SERVERS["uvicorn"], port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for value in range(20):
            answer = http.post("/v2/models/mine/infer", json={"input": {"x": [value]}})
            assert answer.json()["output"] == {"y": [value + 1]}, answer.text
        assert http.post("/v2/models/none/infer", json={}).status_code == 404
        assert "logging" not in http.get("/v2").json()["extensions"], "the log is the program's, and /v2/logging is 501"
        assert http.get("/v2/logging").status_code == 501


def test_the_app_of_an_instance_serves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("forebay.engine.child"))
    app = forebay.create_app(Centred)
    with pytest.raises(SetupError, match="that of an instance"):
        _ = app.state.engine.models

    async def start() -> None:
        async with forebay.lifespan_of(app)(app):
            pass

    with pytest.raises(SetupError, match="that of an instance"):
        asyncio.run(start())
    with pytest.raises(SetupError, match="__main__"):
        forebay.serve(Centred)


# -- a script ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import forebay


class Mine(forebay.Model):
    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x):
        return x + 1


"""


def test_a_script_serves_its_own_class(tmp_path: Path) -> None:
    port = free_port()
    serves = f"forebay.serve(Mine, port={port}, instances=2, warm_up_s=0.1)"
    (tmp_path / "mine.py").write_text(f'{SCRIPT}if __name__ == "__main__":\n    {serves}\n')
    with started(tmp_path, ["mine.py"], port) as process:
        answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/mine/infer", json={"input": {"x": [1.0]}})
        assert answer.json()["output"] == {"y": [2.0]}
    assert process.returncode == 0


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{SCRIPT}forebay.serve(Mine, port=0)\n")
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr


# -- for tests --------------------------------------------------------------------------------------------------------


def test_a_server_for_tests(tmp_path: Path) -> None:
    given: dict[str, Any] = {**QUICK, "data_dir": tmp_path / "data", "log_format": "text"}
    with forebay.testing.serve(Scaled, **given, model_settings={"scaled": {"max_batch_rows": 7}}) as running:
        answer = httpx.post(f"{running.base_url}/v2/models/scaled/infer", json={"input": {"x": [2.0]}})
        assert answer.json()["output"] == {"y": [6.0]}
        assert httpx.get(f"{running.base_url}/v2/models/scaled/config").json()["max_batch_size"] == 7
        process = running.process
    assert process.returncode == 0
    with pytest.raises(SetupError, match="weights"), forebay.testing.serve(f"{MODELS / 'loads.py'}:Fails"):
        pass


def test_a_clock_for_tests() -> None:
    clock = forebay.testing.FakeClock(5.0)
    time.sleep(0.01)
    assert clock() == 5.0
    clock.advance(2.5)
    assert clock() == 7.5
    with pytest.raises(ValueError, match="monotonic"):
        clock.advance(-1)
