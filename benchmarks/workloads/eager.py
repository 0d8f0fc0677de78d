"""A torch module as it stands, against its ONNX export: rows a second of one thread, in turns."""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.bench_run import Json, spread

from forebay.optimize.samples import Row, batch_of
from forebay.runtimes.port import Runtime

SIZES = (1, 8, 32)
SECONDS = 0.5
"""Of each size, form and round."""


def against_export(factory: str, exported: Runtime, rows: Sequence[Row], rounds: int) -> Json:
    """`eager`, `export`: rows a second by batch size; `ratio`: the export's best over eager torch's best."""
    import torch

    path, _, name = factory.rpartition(":")
    module, _ = runpy.run_path(path)[name]()
    torch.set_num_threads(1)
    rates: dict[str, dict[int, list[float]]] = {"eager": {}, "export": {}}
    for _ in range(rounds):
        for size in SIZES:
            batches = [batch_of(rows[start : start + size]) for start in range(0, 32 * size, size)]
            tensors = [{key: torch.from_numpy(value) for key, value in batch.items()} for batch in batches]
            with torch.inference_mode():
                rate = _rate([partial(module, **batch) for batch in tensors], size)
            rates["eager"].setdefault(size, []).append(rate)
            rate = _rate([partial(exported.run, batch, size) for batch in batches], size)
            rates["export"].setdefault(size, []).append(rate)
    best = {form: [max(found) for found in zip(*by_size.values(), strict=True)] for form, by_size in rates.items()}
    return {
        **{form: {size: spread(found) for size, found in by_size.items()} for form, by_size in rates.items()},
        "ratio": spread([a / b for a, b in zip(best["export"], best["eager"], strict=True)]),
    }


def _rate(calls: Sequence[Callable[[], object]], rows: int) -> float:
    for call in calls[:3]:
        call()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        calls[done % len(calls)]()
        done += 1
    return done * rows / (time.perf_counter() - began)
