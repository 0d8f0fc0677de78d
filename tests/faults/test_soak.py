"""Everything at once: good rows, rows that spoil their batch, clients that leave, instances that are killed."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.e2e.server import Served, body, eventually, model, quick, serving, values
from tests.e2e.wire import request
from tests.models.faulty import KILLS, RAISES, SHORT

BAD = {RAISES: "model_error", SHORT: "output_mismatch", KILLS: "instance_crashed"}


def leave(served: Served, value: float) -> None:
    """Send a request, and go without waiting for its answer."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(request("/v2/models/faulty/infer", body([value])))
        time.sleep(0.002)


def client(served: Served, seed: int, stop: threading.Event) -> Counter[str]:
    """Asks until `stop`; every answer must be the right one for what was asked."""
    rng, seen = random.Random(seed), Counter[str]()
    while not stop.is_set():
        kind = rng.random()
        value = float(rng.randrange(2000, 1_000_000))
        if kind < 0.02:
            leave(served, value)
            seen["left"] += 1
        elif kind < 0.05:
            bad = RAISES if kind < 0.04 else SHORT if kind < 0.049 else KILLS
            answer = served.infer("faulty", [bad], timeout=60_000_000)
            assert (answer.status_code, answer.json()["code"]) == (500, BAD[bad]), answer.text
            seen[BAD[bad]] += 1
        elif kind < 0.15:
            rows = [value + row for row in range(rng.randrange(2, 200))]
            assert values(served.infer("faulty", rows, timeout=60_000_000)) == [2 * row for row in rows]
            seen["many rows"] += 1
        else:
            assert values(served.infer("faulty", [value], timeout=60_000_000)) == [2 * value]
            seen["one row"] += 1
    return seen


@pytest.mark.parametrize("seconds", [6, pytest.param(120, marks=pytest.mark.full)])
@pytest.mark.timeout(300)
def test_good_rows_get_their_answers_whatever_else_happens(tmp_path: Path, seconds: float) -> None:
    with serving(tmp_path, *quick(*model("faulty.py", "Faulty"), instances=2)) as served:
        stop = threading.Event()
        with ThreadPoolExecutor(24) as pool:
            clients = [pool.submit(client, served, seed, stop) for seed in range(24)]
            end = time.monotonic() + seconds
            try:
                while time.monotonic() < end and not any(future.done() for future in clients):
                    time.sleep(min(10, seconds / 2))
                    if instances := served.instances():
                        instances[0].kill()
            finally:
                stop.set()
            total = sum((future.result() for future in clients), Counter[str]())
        assert total["one row"] > 100, total
        assert total["model_error"] > 0, total
        eventually(lambda: served.in_flight("faulty") == 0, "nothing is in flight")
        assert served.metric("forebay_queue_depth_rows", "faulty") == 0
        eventually(lambda: served.metric("forebay_instances_ready", "faulty") == 2, "both instances are up", 60)
