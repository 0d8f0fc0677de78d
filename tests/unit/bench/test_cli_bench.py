from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.core.errors import SetupError

METADATA = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []}


class Stub(BaseHTTPRequestHandler):
    """Describes one model and answers every infer request with `reply`; keeps what was sent in `seen`."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, Any]]
    reply: bytes

    def do_GET(self) -> None:
        self._send(200 if self.path == "/v2/models/m" else 404, json.dumps(METADATA).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append({"path": self.path, "auth": self.headers["Authorization"], **json.loads(body)})
        self._send(200, self.reply)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    seen: list[dict[str, Any]] = []
    reply = getattr(request, "param", b'{"outputs":[{"name":"y","shape":[1],"datatype":"FP32","data":[0]}]}')
    handler = type("Handler", (Stub,), {"seen": seen, "reply": reply})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_closed_loop_prints_json(stub: tuple[str, list[dict[str, Any]]]) -> None:
    url, seen = stub
    done = run(url, "--model", "m", "--clients", "2", "--seconds", "0.3", "--bodies", "20", "--slo-ms", "250", "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["mode"] == "closed"
    assert figures["in_slo"] + figures["late"] > 0
    assert figures["errors"] == 0
    assert {item["path"] for item in seen} == {"/v2/models/m/infer"}
    assert seen[0]["parameters"] == {"timeout": 250_000}
    assert seen[0]["inputs"][0]["shape"] == [1, 4]
    assert len({json.dumps(item["inputs"]) for item in seen}) == min(len(seen), 20)


def test_open_loop_prints_a_table_and_writes_the_plot(stub: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    url, seen = stub
    plot = tmp_path / "latency.png"
    done = run(
        url, "--model", "m", "--rate", "80", "--arrivals", "onoff", "--seconds", "0.5", "--bodies", "20",
        "--late-bound-ms", "1e6", "--api-key", "secret", "--no-timeout", "--slo-ms", "100", "--plot", str(plot),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "open loop, 0.5 s" in done.output
    assert "200 in time" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert seen[0]["auth"] == "Bearer secret"
    assert "parameters" not in seen[0]


@pytest.mark.parametrize("stub", [b'{"error":"no"}'], indirect=True)
def test_answers_without_outputs_end_with_exit_code_1(stub: tuple[str, list[dict[str, Any]]]) -> None:
    url, _ = stub
    done = run(url, "--model", "m", "--clients", "4", "--seconds", "0.5", "--bodies", "5", "--json")
    figures = json.loads(done.stdout)
    assert figures["wrong"] > 0
    assert done.exit_code == 1


@pytest.mark.parametrize("rates", [[], ["--rate", "5", "--clients", "5"]])
def test_either_rate_or_clients(rates: list[str]) -> None:
    done = run("http://127.0.0.1:9", "--model", "m", *rates)
    assert isinstance(done.exception, SetupError)
    assert "either --rate" in str(done.exception)


def test_an_unknown_model_and_a_dead_server_are_told(stub: tuple[str, list[dict[str, Any]]]) -> None:
    url, _ = stub
    assert "answered 404" in str(run(url, "--model", "other", "--clients", "1").exception)
    assert "no server answers" in str(run("127.0.0.1:9", "--model", "m", "--clients", "1").exception)
