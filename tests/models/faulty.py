"""Models that go wrong on request, and keep a ledger of what they were asked (FOREBAY_TEST_FOLDER/NAME.calls)."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

import forebay
from forebay.core.tensors import Array

RAISES, KILLS, HANGS, SHORT, TEXT, HOLDS = 13.0, 666.0, 777.0, 500.0, 501.0, 900.0
HOLD_S = 0.4
FOLDER = Path(os.environ.get("FOREBAY_TEST_FOLDER", "."))


def _begin(name: str, x: Array) -> None:
    """Note the call; 2 ms, or long enough for a whole batch to gather behind a row that holds."""
    with (FOLDER / f"{name}.calls").open("a") as file:
        file.write(f"{len(x)}\n")
    time.sleep(HOLD_S if (x == HOLDS).any() else 0.002)


class Faulty(forebay.Model):
    """y = 2x. The constants above spoil the whole batch that they are in, each in its way."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}
    max_batch_rows = 64

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        _begin("faulty", x)
        if (x == KILLS).any():
            os._exit(9)
        if (x == HANGS).any():
            threading.Event().wait()
        if (x == RAISES).any():
            raise ValueError("13 is not a number this model likes")
        if (x == SHORT).any():
            return x[:-1] * 2
        if (x == TEXT).any():
            return np.full((len(x), 1), "not a number")
        return x * 2


class Broken(forebay.Model):
    """y = 2x, but while the file `raise` or `exit` is in the folder, every call raises or ends the process."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        _begin("broken", x)
        if (FOLDER / "exit").exists():
            os._exit(7)
        if (FOLDER / "raise").exists():
            raise RuntimeError("the weights are wrong")
        return x * 2


class Hungry(forebay.Model):
    """y = 2x, but more than 8 rows do not fit into memory, and the row 1024 alone does not either."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        _begin("hungry", x)
        if len(x) > 8 or (x == 1024).any():
            raise MemoryError(f"{len(x)} rows are too many")
        return x * 2


class Pause(forebay.Model):
    """Sleeps as many milliseconds as the largest value says, then gives the values back."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1], milliseconds. Returns float32 [rows, 1]."""
        _begin("pause", x)
        if x.max() >= 10:
            time.sleep(float(x.max()) / 1000)
        return x


class Loading(forebay.Model):
    """Loads slowly while the file `slow` is there, and dies while loading as long as `die` is."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def load(self, device: str) -> None:
        """Looks for the two files."""
        (FOLDER / "loading").touch()
        if (FOLDER / "die").exists():
            os._exit(5)
        while (FOLDER / "slow").exists():
            time.sleep(0.01)

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        return x * 2


class Forks(forebay.Model):
    """Has a helper process that outlives it for a while, with all its open files."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def load(self, device: str) -> None:
        """Forks."""
        if os.fork() == 0:
            time.sleep(15)
            os._exit(0)

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        return x * 2
