"""Models that stream, and note what happens to them in FOREBAY_TEST_FOLDER/NAME.events."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import forebay
from forebay.core.tensors import Array

FOLDER = Path(os.environ.get("FOREBAY_TEST_FOLDER", "."))
DIES, RAISES, FILLS = -1, -2, -3


def note(name: str, event: str) -> None:
    """Append a line to a model's ledger."""
    with (FOLDER / f"{name}.events").open("a") as file:
        file.write(event + "\n")


class Count(forebay.Model):
    """Counts each row from 1 to `n`, a number every 10 ms, each row ending by itself. After two numbers -1 ends the
    process and -2 raises; -3 sends 64 KiB of text with each number, without a pause and without an end."""

    inputs = {"n": ("INT64", [])}
    outputs = {"text": ("BYTES", []), "last": ("INT64", [])}
    max_batch_rows = 8

    def examples(self) -> list[dict[str, int]]:
        """Short ones: what is measured at load is run to its end."""
        return [{"n": 1}, {"n": 2}]

    def predict(self, n: Array) -> Generator[Any, frozenset[int], None]:
        """`n`: int64 [rows]."""
        wanted = n.tolist()
        note("count", f"begin {len(wanted)}")
        number = 0
        gone: frozenset[int] = frozenset()
        live = set(range(len(wanted)))
        try:
            while live:
                number += 1
                if number > 2 and DIES in wanted:
                    os._exit(9)
                if number > 2 and RAISES in wanted:
                    raise ValueError("minus two is not liked")
                if FILLS not in wanted:
                    time.sleep(0.01)
                step = []
                for row in sorted(live):
                    text = f"{number} " + ("x" * 65536 if wanted[row] == FILLS else "")
                    step.append(forebay.Partial(row, {"text": text, "last": number}, last=number == wanted[row]))
                gone = yield step
                live -= gone | {row for row in live if wanted[row] == number}
        except GeneratorExit:
            note("count", f"closed at {number}")
            raise


class Steps(forebay.Model):
    """Three pieces for all rows at once, with progress between; `score` is the last one's, `path` grows."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"score": ("FP32", [1]), "path": ("FP32", [-1])}

    def predict(self, x: Array) -> Iterator[Any]:
        """`x`: float32 [rows, 1]."""
        for step in range(3):
            yield forebay.Progress(step / 3)
            yield {"score": x * (step + 1), "path": np.full((len(x), 2), step, np.float32)}


class Instant(forebay.Model):
    """Yields at once, with the clock's time in its process: what a server adds can be told from it."""

    inputs = {"x": ("FP32", [])}
    outputs = {"at": ("FP64", [])}

    def predict(self, x: Array) -> Iterator[Any]:
        """`x`: float32 [rows]. Yields monotonic seconds, float64 [rows]."""
        for _ in range(2):
            yield np.full(len(x), time.monotonic())
