"""A model with a known cost, for tests and load: 20 ms a batch plus 1 ms a row.

forebay serve examples/sleep.py:Sleep
"""

from __future__ import annotations

import time

import forebay
from forebay.core.tensors import Array

BATCH_MS = 20.0
ROW_MS = 1.0


class Sleep(forebay.Model):
    """Sleeps, then answers the sum of each row. Rows of different lengths may not share a batch (`pad` is off)."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [1])}
    max_batch_rows = 64
    slo_ms = 105.0
    pad = False

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, any]. Returns float32 [rows, 1]."""
        time.sleep((BATCH_MS + ROW_MS * len(x)) / 1000)
        total: Array = x.sum(axis=1, keepdims=True)
        return total
