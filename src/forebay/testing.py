"""Help for tests of one's own models and clients: a server in a fixture, and a clock that a test moves.

@pytest.fixture(scope="module")
def server():
    with forebay.testing.serve(Mlp) as running:
        yield running

def test_it(server):
    httpx.get(f"{server.base_url}/v2/models/mlp")
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from forebay.core.errors import SetupError
from forebay.embedding.app import serve as serve_here
from forebay.embedding.composition import ModelArgument, catalog_of, settings_of
from forebay.models.source import ModelSource
from forebay.repository.catalog import NamedModel

START_S, STOP_S = 120.0, 60.0
_LOOK_S = 0.02
_COMMAND = [sys.executable, "-c", "from forebay.testing import main; main()"]


class FakeClock:
    """A `forebay.core.clock.Clock` that stands still until it is told: monotonic seconds."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """The instant, in seconds."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises `ValueError` for less than 0: the clock is monotonic."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back by {-seconds} s")
        self.now_s += seconds


class Running:
    """A server in a process of its own. `base_url` such as `http://127.0.0.1:41234`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = 0
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if not self.port:
                with contextlib.suppress(ValueError, AttributeError):
                    self.port = json.loads(line).get("port", 0)

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said so far: JSON lines."""
        return "".join(self._lines)

    def wait(self) -> None:
        """Until it serves. Raises `SetupError` with what it said where it ends instead."""
        end = time.monotonic() + START_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                said = self.log.strip()
                raise SetupError(f"the server did not start: {said}", code="model_load_error")
            time.sleep(_LOOK_S)

    def _listens(self) -> bool:
        # The models are loaded before the port is told, and it listens a moment after that.
        if self.port:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        return False

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def serve(*models: ModelArgument, name: str | None = None, **settings: Any) -> Iterator[Running]:
    """A server of these models on a free port of 127.0.0.1, ready; it has ended when the block has.

    The arguments are those of `forebay.serve`, without `config` and `environ`. Raises `SetupError`.
    """
    catalog_of(models, name)
    settings = {"port": 0, **settings}
    by_model = settings.pop("model_settings", None)
    settings_of(settings, by_model, None, None)
    wanted = [_plain(model, name) for model in models]
    process = subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Running(process)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            given = {"models": wanted, "name": name, "settings": settings, "model_settings": by_model}
            pipe.write(json.dumps(given, default=str))  # a path
        running.wait()
        yield running
    finally:
        running.stop()


def _plain(model: ModelArgument, name: str | None) -> Any:
    if isinstance(model, type):
        (source,) = catalog_of([model], name).named
        return msgspec.to_builtins(source)
    return str(model)


def main() -> None:
    """The server's process: what to serve comes on stdin."""
    wanted = json.load(sys.stdin)
    models: list[ModelArgument] = []
    for model in wanted["models"]:
        if isinstance(model, dict):
            source = msgspec.convert(model, ModelSource)
            models.append(NamedModel(source, lambda source=source: source))  # type: ignore[misc]
        else:
            models.append(model)
    try:
        serve_here(
            *models,
            name=wanted["name"],
            model_settings=wanted["model_settings"],
            **{**wanted["settings"], "log_format": "json"},  # which is how the port is found
        )
    except SetupError as error:
        raise SystemExit(error.message) from None
