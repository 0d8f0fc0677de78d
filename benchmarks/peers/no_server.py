"""The loop without a server: as many single-thread processes as cores run the model on prepared inputs.

    python -m benchmarks.peers.no_server mlp|minilm|images INPUTS.json SECONDS BATCH PROCESSES

Prints JSON: rows a second over all processes. MiniLM's tokenisation is part of the loop; reading JSON is not.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.model_file import Embedder, open_session


def _runner(workload: str, inputs: list[Any]) -> tuple[Callable[[list[Any]], Any], list[Any]]:
    if workload == "minilm":
        return Embedder(), inputs
    session = open_session()
    name = session.get_inputs()[0].name
    if workload == "images":
        generator = np.random.default_rng(0)
        rows: list[Any] = list(generator.integers(0, 256, size=(64, 224, 224, 3), dtype=np.uint8))
    else:
        rows = [np.asarray(row, dtype=np.float32) for row in inputs]
    return (lambda batch: session.run(None, {name: np.stack(batch)})), rows


def _loop(workload: str, path: str, seconds: float, batch: int, offset: int, barrier: Barrier, counts: Any) -> None:
    run, rows = _runner(workload, json.loads(Path(path).read_text()))
    place = (offset * len(rows)) // barrier.parties
    done = 0
    run([rows[i % len(rows)] for i in range(batch)])
    barrier.wait()
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        run([rows[(place + i) % len(rows)] for i in range(batch)])
        place += batch
        done += batch
    counts.put(done / elapsed)


def main() -> None:
    workload, path, seconds, batch, processes = sys.argv[1:]
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(int(processes)), context.SimpleQueue()
    children = [
        context.Process(target=_loop, args=(workload, path, float(seconds), int(batch), place, barrier, counts))
        for place in range(int(processes))
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print(json.dumps({"rows_per_s": sum(counts.get() for _ in children)}))


if __name__ == "__main__":
    main()
