"""Models whose speed depends on the threads that they are given, whatever the machine. They answer that number."""

from __future__ import annotations

import os
import time

import numpy as np

import forebay
from forebay.core.tensors import Array


class Threaded(forebay.Model):
    """Twice the threads, four times as fast: one instance with all of them is best. A negative input takes 0.5 s."""

    max_batch_rows = 1
    inputs = {"x": ("FP32", [1])}
    outputs = {"threads": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]."""
        time.sleep(0.5 if x.min() < 0 else 0.004 / self.threads**2)
        return np.full_like(x, self.threads)


class Steep(forebay.Model):
    """Twice the threads, eight times as fast: what a slow machine adds to each call does not turn that round."""

    max_batch_rows = 1
    inputs = {"x": ("FP32", [1])}
    outputs = {"threads": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]."""
        time.sleep(0.02 / self.threads**3)
        return np.full_like(x, self.threads)


class Single(Threaded):
    """Does not load with more than one thread."""

    def load(self, device: str) -> None:
        """Raises where there are several."""
        if self.threads > 1:
            raise ValueError("one thread is all that this library has")


class Fragile(Threaded):
    """With more than one thread its process ends after some calls."""

    def load(self, device: str) -> None:
        """Begins to count."""
        self.calls = 0

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]."""
        self.calls += 1
        if self.threads > 1 and self.calls > 50:
            os._exit(7)
        return super().predict(x)


class Slow(Threaded):
    """A row takes half a second."""

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]."""
        time.sleep(0.5)
        return np.full_like(x, self.threads)
