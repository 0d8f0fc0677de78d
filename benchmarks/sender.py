"""A generator in its own process: sends the requests of a pool file in an open loop and prints its figures as JSON.

python -m benchmarks.sender POOL PORT RATE SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from benchmarks.pools import SplitPool

from forebay.bench.arrivals import poisson
from forebay.bench.generator import run_event_loop, run_open


def main() -> None:
    path, port, rate, seconds = sys.argv[1:]
    pool = SplitPool.read(Path(path))
    instants = poisson(float(rate), float(seconds), seed=7).tolist()
    recording = run_event_loop(run_open(("127.0.0.1", int(port)), pool, instants))
    print(msgspec.json.encode(recording.summarise(float(seconds), late_bound_ms=float("inf"))).decode())


if __name__ == "__main__":
    main()
