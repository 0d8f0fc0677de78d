"""`forebay serve` as a stranger runs it: the real command in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "models"
COMMAND = [sys.executable, "-c", "from forebay.cli.main import main; main()"]
START_S = 60.0
LISTENING = ("serving ", "health and metrics at ")
"""How the log line begins that has the port."""


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", **extra}


def eventually(holds: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    """Wait until `holds()` is true and return it; fail with `what` if that takes too long (generous, not a timing)."""
    end = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
    return found


class Served:
    """A running `forebay serve`. `folder` is its working folder; its models may write there (FOREBAY_TEST_FOLDER)."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        group: bool = False,
        port: int | None = 0,
        role: str = "serve",
        root: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`port` None: none is given. `role`: the subcommand. `root`: the program; `environ`: more for its
        environment."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines: list[str] = []
        listens = ["--port", str(port)] if port is not None else []
        command = [*root, role, *arguments, *listens, "--log-format", "json"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**{"FOREBAY_TEST_FOLDER": str(folder), **(environ or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=group,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0
        self.http = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    # -- what it says -------------------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "\n".join(self.lines)

    def records(self) -> list[dict[str, Any]]:
        """The log so far; lines that are not JSON are left out."""
        found = []
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def logged(self, text: str) -> bool:
        """Whether a log line says this."""
        return any(text in line for line in list(self.lines))

    def wait_logged(self, text: str) -> None:
        """Until a log line says this: lines come by a pipe, and may be behind what the server answers."""
        eventually(lambda: self.logged(text), f"a line of the log has {text!r}:\n{self.output}")

    def wait_ready(self) -> Served:
        """Until the port is known and `/readyz` says 200."""
        self.wait_listening()
        eventually(self.ready, "the server is ready")
        return self

    def wait_listening(self) -> Served:
        """Until the port is known."""

        def listening() -> bool:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.output}"
            self.port = next((r["port"] for r in self.records() if r["message"].startswith(LISTENING)), 0)
            return bool(self.port)

        eventually(listening, "the server listens", START_S)
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{self.port}")
        return self

    def ready(self) -> bool:
        """Whether it takes requests."""
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    # -- what it answers ----------------------------------------------------------------------------------------------

    def infer(self, model: str, rows: Sequence[Any], shape: Sequence[int] = (), **parameters: Any) -> httpx.Response:
        """One FP32 input `x` of `rows` (each a number or a list of numbers)."""
        return self.http.post(f"/v2/models/{model}/infer", json=body(rows, shape, **parameters))

    def many(self, model: str, rows: Sequence[Any], threads: int = 32, **parameters: Any) -> list[httpx.Response]:
        """One request a row, from so many clients at once; answers in the order of `rows`."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda row: self.infer(model, [row], **parameters), rows))

    def statistics(self, model: str) -> dict[str, Any]:
        """The protocol's statistics of one model."""
        found: dict[str, Any] = self.http.get(f"/v2/models/{model}/stats").json()["model_stats"][0]
        return found

    def metric(self, name: str, model: str) -> float:
        """One sample of `/metrics` of a model, summed over its other labels; 0 where there is none."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + "{") and f'model="{model}"' in line:
                total += float(line.rsplit(" ", 1)[1])
        return total

    def in_flight(self, model: str) -> int:
        """Admitted requests that are not answered yet."""
        return int(self.metric("forebay_in_flight_requests", model))

    # -- its processes ------------------------------------------------------------------------------------------------

    def instances(self) -> list[psutil.Process]:
        """Its instance processes, oldest first."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "forebay.engine.child" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                        found.append(child)
        return sorted(found, key=lambda child: child.create_time())

    def stop(self, within_s: float = 30.0) -> None:
        """SIGTERM; the drain must end by itself, well, and leave nothing behind."""
        children = self.instances()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended {within_s:g} s after SIGTERM:\n{self.output}") from None
        self._reader.join(10)
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.output}"
        assert "Traceback" not in self.output, self.output
        gone(children)

    def close(self) -> None:
        """Whatever happened: no process of ours is left."""
        self.http.close()
        children = self.instances()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def calls(served: Served, model: str) -> list[int]:
    """The rows of every call of a model of `faulty.py`, warm-up included, from its own ledger."""
    return [int(line) for line in (served.folder / f"{model}.calls").read_text().split()]


def together(
    served: Served, model: str, rows: Sequence[float], holds: float, **parameters: Any
) -> list[httpx.Response]:
    """Send each row as a request of its own so that they run as one batch: while they gather, the model's only
    instance runs the row `holds`, and one more row waits there already."""
    with ThreadPoolExecutor(len(rows) + 2) as pool:
        held = [pool.submit(served.infer, model, [holds])]
        eventually(lambda: served.in_flight(model) == 1, "one runs")
        held.append(pool.submit(served.infer, model, [1.0]))
        eventually(lambda: served.in_flight(model) == 2, "one waits")
        answers = list(pool.map(lambda row: served.infer(model, [row], **parameters), rows))
        assert [future.result().status_code for future in held] == [200, 200]
    return answers


def gone(children: Sequence[psutil.Process], within_s: float = 10.0) -> None:
    """Assert that these processes end."""
    _, alive = psutil.wait_procs(children, timeout=within_s)
    assert not alive, f"left behind: {alive}"


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, group: bool = False) -> Iterator[Served]:
    """A server that is ready; at the end it must stop well, unless the test has ended it already."""
    served = Served(folder, *arguments, group=group)
    try:
        yield served.wait_ready()
        if served.process.poll() is None:
            served.stop()
    finally:
        served.close()


def quick(*models: str, instances: int = 1, warm_up_s: float = 0.1) -> list[str]:
    """Arguments that serve these models with a short start."""
    return [*models, "--set", f"*.instances={instances}", "--set", f"*.warm_up_s={warm_up_s}"]


def model(file: str, *classes: str) -> list[str]:
    """MODEL arguments of classes in `tests/models`."""
    return [f"{MODELS / file}:{name}" for name in classes]


def body(rows: Sequence[Any], shape: Sequence[int] = (), **parameters: Any) -> Mapping[str, Any]:
    """A protocol v2 body with one FP32 input `x`."""
    nested = [row if isinstance(row, list) else [row] for row in rows]
    full = list(shape) or [len(nested), len(nested[0])]
    flat = [value for row in nested for value in row]
    tensor = {"name": "x", "shape": full, "datatype": "FP32", "data": flat}
    return {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}


def values(answer: httpx.Response) -> list[Any]:
    """The first output of a 200."""
    assert answer.status_code == 200, answer.text
    data: list[Any] = answer.json()["outputs"][0]["data"]
    return data


def run_once(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A `forebay` command that is expected to end by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(FOREBAY_TEST_FOLDER=str(folder), **environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
