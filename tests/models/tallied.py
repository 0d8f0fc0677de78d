"""A model that keeps a tally of every row that it runs, and goes wrong on request."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

import forebay
from forebay.core.tensors import Array

RAISES, KILLS, HANGS, STARVES, CROWDED = -20.0, -30.0, -40.0, -50.0, -60.0
"""Rows that spoil their batch; the last two by a lack of memory, of which CROWDED only suffers among more than 8."""
POISONS = (RAISES, KILLS, HANGS, STARVES, CROWDED)
FIRST = 1000.0
"""Other values below it have run 0: an instance that starts tries its model with such, alone and together."""
BATCH_S, ROW_S, MOST_ROWS = 0.03, 0.001, 32
CAPACITY_PER_S = MOST_ROWS / (BATCH_S + MOST_ROWS * ROW_S)
"""Rows that one instance can do."""
FOLDER = Path(os.environ.get("FOREBAY_TEST_FOLDER", "."))


class Tallied(forebay.Model):
    """y = 2x + 1, and `run`, a number that no other run of any row has; within a batch they follow each other.

    Each row is noted when its run begins: `tallied.runs` in the folder, a line of value and run. A batch with a row
    from FIRST up then waits while the file `hold` is there.
    """

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1]), "run": ("INT64", [1])}
    max_batch_rows = MOST_ROWS

    def load(self, device: str) -> None:
        """Opens the tally."""
        self._runs = os.getpid() << 24
        self._tally = os.open(FOLDER / "tallied.runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, 1]."""
        runs = self._runs + 1 + np.arange(len(x), dtype=np.int64)
        self._runs += len(x) + 1  # a gap between batches
        runs[(x[:, 0] < FIRST) & ~np.isin(x[:, 0], POISONS)] = 0
        os.write(self._tally, b"".join(b"%d %d\n" % noted for noted in zip(x[:, 0], runs, strict=True)))
        while (x >= FIRST).any() and (FOLDER / "hold").exists():
            time.sleep(0.005)
        time.sleep(BATCH_S + ROW_S * len(x))
        if (x == KILLS).any():
            os._exit(9)
        if (x == HANGS).any():
            threading.Event().wait()
        if (x == STARVES).any() or ((x == CROWDED).any() and len(x) > 8):
            raise MemoryError(f"{len(x)} rows are too many")
        if (x == RAISES).any():
            raise ValueError("not a number this model likes")
        return {"y": x * 2 + 1, "run": runs[:, None]}
