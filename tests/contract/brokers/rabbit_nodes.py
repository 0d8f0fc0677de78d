"""Nodes of RabbitMQ: the one of this machine, or one that tests start for themselves, on ports and in a folder of its
own."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

PORT = 5672
VARIABLE = "FOREBAY_TEST_RABBITMQ"
_START_S = 60.0
_FOLDERS = ("/usr/lib/rabbitmq/bin/", "")
"""The first has what Debian's own commands run, which would change to another user."""


def command(name: str) -> str:
    """A command of RabbitMQ; a test that needs it is skipped where this machine has none."""
    path = next((found for folder in _FOLDERS if (found := shutil.which(f"{folder}{name}"))), None)
    if path is None:
        pytest.skip("there is no rabbitmq-server on this machine")
    return path


def accepts(port: int) -> bool:
    """Whether a broker speaks at a port: it says nothing to who says nothing, and something to nonsense."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2.0) as connection:
            connection.settimeout(2.0)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) != b""
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class RabbitNode:
    """A node on loopback. `url` is where clients connect."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fbrabbit"))
        self.port, self._own_port = _free_port(), _free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None
        words = {"listeners.tcp.1": f"127.0.0.1:{self.port}", "log.file.level": "warning", **settings}
        config = self.folder / "rabbitmq.conf"
        config.write_text("".join(f"{name} = {value}\n" for name, value in words.items()))
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "env.conf").write_text("")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"forebay{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._own_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
        }

    def __enter__(self) -> RabbitNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self) -> None:
        """Start it without waiting for it."""
        path = command("rabbitmq-server")
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [path], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.begin()
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        assert self._process is not None
        until = time.monotonic() + _START_S
        while not accepts(self.port):
            told = (self.folder / "out").read_text(errors="replace")
            assert self._process.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """A signal to all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            try:
                self.send(signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None

    def control(self, *words: str) -> str:
        """What `rabbitmqctl` answers to words."""
        done = subprocess.run(
            [command("rabbitmqctl"), "-q", "-n", self.environment["RABBITMQ_NODENAME"], *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout


def rabbitmq_url() -> str:
    """A node that many tests share, each with queues of its own: that of `FOREBAY_TEST_RABBITMQ` (a URL), that of this
    machine, or one that is started now and ends with this process."""
    if VARIABLE not in os.environ and not accepts(PORT):
        node = RabbitNode()
        atexit.register(node.__exit__, None, None, None)
        node.start()
        os.environ[VARIABLE] = node.url
    return os.environ.get(VARIABLE, f"amqp://guest:guest@127.0.0.1:{PORT}/")
