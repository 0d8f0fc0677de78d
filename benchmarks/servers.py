"""Starting, watching and stopping the servers under test, all of their processes together."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from forebay.bench.bodies import Endpoint

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerFailedError(Exception):
    """A server did not start or died; the message holds the end of its log."""


class Server:
    """A running server. Its processes share a session, so that none is missed."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint: Endpoint, log: Path) -> None:
        self.process = process
        self.endpoint = endpoint
        self.log = log

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.endpoint.host, self.endpoint.port

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the server that live now, with those of their dead children."""
        return sum(ticks for _, ticks in session_processes(self.process.pid)) / _TICKS

    def own_cpu_s(self) -> float:
        """CPU seconds of the process that was started, alone."""
        return dict(session_processes(self.process.pid))[self.process.pid] / _TICKS

    def cpu_s_of(self, module: str) -> float:
        """CPU seconds of those of its processes that run this module."""
        return sum(ticks for pid, ticks in session_processes(self.process.pid) if module in _command(pid)) / _TICKS

    def own_rss_bytes(self) -> int:
        """Memory of the process that was started, alone."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def process_count(self) -> int:
        """Processes that live now."""
        return len(session_processes(self.process.pid))

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-2000:]


def session_processes(session: int) -> list[tuple[int, int]]:
    """(pid, CPU ticks) of each process of a session, and of those that they have started, from /proc (Linux)."""
    parents: dict[int, tuple[int, int]] = {}
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid, ticks = int(entry.name), sum(int(field) for field in fields[11:15])
        parents[pid] = int(fields[1]), ticks
        if int(fields[3]) == session:
            found[pid] = ticks
    while more := {pid: ticks for pid, (parent, ticks) in parents.items() if parent in found and pid not in found}:
        found.update(more)
    return list(found.items())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # it ended meanwhile


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    name: str, command: Sequence[str], port: int, first: bytes, *, env: Mapping[str, str], cwd: Path
) -> Iterator[Server]:
    """Run a server until the block ends. It counts as ready when the whole request `first` gets a 200 or 202."""
    log = cwd / f"{name.replace(' ', '-').replace(',', '')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )
    server = Server(process, Endpoint("127.0.0.1", port), log)
    try:
        _wait_ready(name, server, first)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then end what is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        process.poll()
        if not session_processes(process.pid):
            return
        time.sleep(0.05)
    for pid, _ in session_processes(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def _wait_ready(name: str, server: Server, first: bytes) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    seen = "no connection"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerFailedError(f"{name} ended with {server.process.returncode}:\n{server.tail()}")
        try:
            status = _exchange(server.address, first)
            if status in (200, 202):
                return
            seen = f"status {status}"
        except OSError as error:
            seen = str(error)
        except http.client.HTTPException as error:
            seen = repr(error)
        time.sleep(0.1)
    raise ServerFailedError(f"{name} was not ready in {START_TIMEOUT_S:g} s (last: {seen}):\n{server.tail()}")


def _exchange(address: tuple[str, int], request: bytes) -> int:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        return response.status
