"""First piece of a streaming model: what the server adds from a client's last byte sent to the first event read.

The model makes its first piece at once and says when it began and when it yielded, on the clock that all processes of
a machine share. Added is the time at the client less the model's own. One client, one connection, one after the other.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.bench_run import OURS, Bench, Contender, Json, spread
from benchmarks.pools import protocol_json

MODEL = f"{Path(__file__).resolve().parents[1] / 'streaming_model.py'}:Instant"
BODY = b'{"x":1.0}'
REQUEST = (
    b"POST /v2/models/instant/generate_stream HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)
WARM = 200


def run(bench: Bench) -> Json:
    """Median milliseconds added before the first piece, each round on a fresh server."""
    contender = Contender(
        OURS,
        bench.forebay(MODEL),
        lambda endpoint: protocol_json(endpoint, "instant", "x", "FP32", [np.ones(1, np.float32)]),
        lambda place, answer: None,
    )
    rounds: list[float] = []
    for number in range(bench.plan.rounds):
        with bench.serve(contender) as (server, _), socket.create_connection(server.address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            added = list(first_pieces(connection, WARM + bench.plan.first_pieces))[WARM:]
        rounds.append(float(np.median(added) * 1e3))
        bench.tell(f"streaming, round {number + 1}: first piece {rounds[-1]:.3f} ms over the model's own time")
    return {"unit": "ms", "added_ms": spread(rounds)}


def first_pieces(connection: socket.socket, requests: int) -> Iterator[float]:
    """Seconds added before the first piece of each request; the rest of its stream is read before the next."""
    for _ in range(requests):
        start = time.monotonic()
        connection.sendall(REQUEST)
        received = b""
        while b"\n\n" not in received.partition(b"\r\n\r\n")[2]:
            received += connection.recv(65536)
        taken_s = time.monotonic() - start
        data = received.partition(b"\r\n\r\n")[2].partition(b"data: ")[2].partition(b"\n\n")[0]
        piece = json.loads(data)
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += connection.recv(65536)
        yield taken_s - (piece["at"] - piece["began"])
