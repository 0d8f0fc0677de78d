"""The servers of docs/migrate, really started, give the same answers as Forebay on the same model.

They live in a virtual environment of their own (`.migrate-venv`), made here on first use; without a package index the
tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from benchmarks.peers_venv import ensure
from benchmarks.servers import free_port, running
from rich.console import Console
from tests.e2e.server import ROOT, Served, quick, serving

import forebay
from forebay.core.tensors import Array

PEERS = ROOT / "examples" / "migrate"
ROWS = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Peer(NamedTuple):
    """How one server is started, and how it is asked for one row."""

    command: Callable[[Path, int], Sequence[str]]
    """From the folder of its virtual environment's commands, and the port."""
    path: str
    ask: Callable[[list[float]], Any]
    """A row to the body's JSON."""
    shares: Callable[[Any], list[float]]
    """The answer's JSON to the row's answer."""


def _plain(row: list[float]) -> Any:
    return {"x": row}


def _y(document: Any) -> list[float]:
    shares: list[float] = document["y"]
    return shares


PEERS_BY_NAME = {
    "litserve": Peer(lambda bin_, port: [str(bin_ / "python"), "litserve_mlp.py"], "/predict", _plain, _y),
    "mosec": Peer(
        lambda bin_, port: [str(bin_ / "python"), "mosec_mlp.py", "--port", str(port)], "/inference", _plain, _y
    ),
    "bentoml": Peer(
        lambda bin_, port: [str(bin_ / "bentoml"), "serve", "bentoml_mlp:Mlp", "--port", str(port)],
        "/predict",
        lambda row: {"x": [row]},
        lambda document: list(document[0]),
    ),
    "fastapi": Peer(
        lambda bin_, port: [str(bin_ / "uvicorn"), "fastapi_mlp:app", "--port", str(port)], "/predict", _plain, _y
    ),
}


@pytest.fixture(scope="module")
def commands() -> Path:
    """The folder of the peers' commands."""
    try:
        python = ensure(ROOT / ".migrate-venv", Console(stderr=True), PEERS / "requirements.txt")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the other servers could not be installed: {error}")
    return python.parent


@pytest.fixture(scope="module")
def ours(mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("migrate"), *quick(str(mlp))) as served:
        yield served


@pytest.fixture(scope="module")
def expected(ours: Served) -> Array:
    """Forebay's answers, a call a row."""
    with forebay.Client(f"http://127.0.0.1:{ours.port}") as client, ThreadPoolExecutor(16) as pool:
        return np.concatenate(list(pool.map(lambda row: client.infer("mlp", row[np.newaxis])["y"], ROWS)))


@pytest.mark.parametrize("name", PEERS_BY_NAME)
def test_the_same_model_answers_the_same_there_and_here(
    name: str, commands: Path, mlp: Path, expected: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, port = PEERS_BY_NAME[name], free_port()
    # What belongs to our environment must not reach theirs.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    env = {
        "MODEL": str(mlp),
        "PORT": str(port),
        "BENTOML_HOME": str(tmp_path),
        "BENTOML_DO_NOT_TRACK": "True",
        "NO_COLOR": "1",
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PEERS),
    }
    content = json.dumps(peer.ask(ROWS[0].tolist())).encode()
    first = b"POST %b HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        peer.path.encode(),
        len(content),
        content,
    )
    command = [part if not part.endswith(".py") else str(PEERS / part) for part in peer.command(commands, port)]
    with (
        running(name, command, port, first, env=env, cwd=tmp_path),
        ThreadPoolExecutor(16) as pool,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):

        def ask(row: Array) -> list[float]:
            answer = http.post(peer.path, json=peer.ask(row.tolist()))
            assert answer.status_code == 200, answer.text
            return peer.shares(answer.json())

        found = np.array(list(pool.map(ask, ROWS)), dtype=np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_torchserve_handler_answers_the_same(mlp: Path, expected: Array) -> None:
    """Only the handler, called as TorchServe calls it: its worker process needs torch, which is not installed here."""
    handler = runpy.run_path(str(PEERS / "torchserve_mlp.py"))["Mlp"]()
    context = SimpleNamespace(system_properties={"model_dir": str(mlp.parent)})
    handler.initialize(context)
    found = handler.handle([{"body": {"x": row.tolist()}} for row in ROWS], context)
    np.testing.assert_allclose([row["y"] for row in found], expected, rtol=1e-4, atol=1e-6)


def test_ours_as_a_python_model_answers_the_same(
    mlp: Path, expected: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", str(mlp))
    with (
        serving(tmp_path, *quick(f"{PEERS / 'forebay_mlp.py'}:Mlp")) as served,
        forebay.Client(f"http://127.0.0.1:{served.port}") as client,
    ):
        found = client.infer("mlp", ROWS)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
