"""What piles up over time: nothing."""

from __future__ import annotations

import socket
import struct
import time

import psutil
import pytest
from tests.e2e.server import Served, body, eventually, values
from tests.e2e.wire import request

RESET = struct.pack("ii", 1, 0)


def reset_connections(served: Served, count: int, payload: bytes) -> None:
    """Connections that send something and are reset at once."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sendall(payload)


def test_an_idle_server_sleeps(faulty: Served) -> None:
    """The benchmark measures the real figure; this only tells a server that spins or polls."""
    assert values(faulty.infer("pause", [1.0])) == [1.0]
    processes = [psutil.Process(faulty.process.pid), *faulty.instances()]

    def busy_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    time.sleep(0.5)
    before = busy_s()
    time.sleep(5)
    assert busy_s() - before < 0.05 * 5


@pytest.mark.parametrize(
    "payload",
    [b"", b"POST /v2/models/pau", request("/v2/models/pause/infer", body([20.0])), request("/healthz") * 3],
    ids=["nothing", "half a head", "a request", "three requests"],
)
def test_connections_that_are_reset_leave_no_file_and_no_work(faulty: Served, payload: bytes) -> None:
    web = psutil.Process(faulty.process.pid)
    assert values(faulty.infer("pause", [1.0])) == [1.0]
    before = web.num_fds()
    reset_connections(faulty, 500, payload or b"\r\n")
    eventually(lambda: web.num_fds() <= before + 2, f"about {before} files are open, as before")
    eventually(lambda: faulty.in_flight("pause") == 0, "nothing is in flight", 60)
    assert values(faulty.infer("pause", [1.0])) == [1.0]


@pytest.mark.full
@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_requests(faulty: Served) -> None:
    web = psutil.Process(faulty.process.pid)

    def burst() -> int:
        for _ in range(5):
            faulty.many("faulty", [float(i) for i in range(2000, 4000)])
            reset_connections(faulty, 500, request("/v2/models/pause/infer", body([1.0])))
        return int(web.memory_info().rss)

    burst()
    settled = burst()
    assert burst() < settled + (8 << 20)
