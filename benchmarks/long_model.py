"""A model whose batches take long and cost a core: 40 ms a batch plus 1 ms a row of computing, whatever the machine."""

from __future__ import annotations

import time

import numpy as np

import forebay
from forebay.core.tensors import Array

BATCH_MS = 40.0
ROW_MS = 1.0


class Long(forebay.Model):
    """Computes for a set time, counted on its own CPU clock, then answers its input."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}
    max_batch_rows = 16

    def load(self, device: str) -> None:
        """Something to multiply."""
        self.matrix = np.full((64, 64), 1e-3, dtype=np.float32)

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        until = time.thread_time() + (BATCH_MS + ROW_MS * len(x)) / 1000
        while time.thread_time() < until:
            self.matrix @ self.matrix
        return x
