"""A real `forebay serve` in processes of its own: started, known to be ready, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from forebay.bench.bodies import Endpoint
from forebay.core.errors import SetupError
from forebay.tune.world import CannotServeError

STOP_S: Final = 15.0
_LOOK_S: Final = 0.02
_KEPT_LINES: Final = 50


class Server:
    """One running server. Raises `CannotServeError` where it does not come up within `start_s`."""

    def __init__(self, command: Sequence[str], folder: Path, start_s: float) -> None:
        """command: `forebay serve ...`, to which the port and the form of the log are added. folder: where it runs."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        folder.mkdir(parents=True, exist_ok=True)
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--log-format", "json"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for us: we end it.
            start_new_session=True,
        )
        self._port = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait(time.monotonic() + start_s)
        except BaseException:
            self.stop()
            raise

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint("127.0.0.1", self._port)

    def check_alive(self) -> None:
        """Raises `CannotServeError` with what it said last where it has ended."""
        if self._process.poll() is not None:
            raise CannotServeError(f"the server ended with code {self._process.returncode}: {self._said()}")

    def stop(self) -> None:
        """Let it keep its measured costs and end; kill it where that takes long."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # Its instances die with it.
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not self._port and line.startswith("{"):
                with contextlib.suppress(ValueError, AttributeError):
                    self._port = json.loads(line).get("port", 0)
            self._lines.append(line.rstrip("\n"))
            del self._lines[:-_KEPT_LINES]

    def _wait(self, end: float) -> None:
        while not self._ready():
            self.check_alive()
            if time.monotonic() > end:
                raise CannotServeError(f"it was not ready in time: {self._said()}")
            time.sleep(_LOOK_S)

    def _ready(self) -> bool:
        if not self._port:
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _said(self) -> str:
        """Its last error, without the code, which is ours to say; else its last line."""
        self._reader.join(1.0)
        errors = [line.removeprefix("error: ") for line in self._lines if line.startswith("error: ")]
        last = (errors or self._lines or ["it said nothing"])[-1]
        for code in SetupError.CODES:
            last = last.removesuffix(f" ({code})")
        return last
