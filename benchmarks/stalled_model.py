"""A model whose jobs wait: a row begins with the seconds that it takes."""

from __future__ import annotations

import time

import forebay
from forebay.core.tensors import Array

STALLED = [600.0] + [0.123456] * 15
"""A row that takes longer than any turn of the bench, of the size of those of the small MLP."""


class Stalled(forebay.Model):
    """Sleeps as long as it is told, one row after another."""

    inputs = {"x": ("FP32", [16])}
    outputs = {"y": ("FP32", [1])}
    batching = "off"

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 16]. Returns float32 [rows, 1]."""
        seconds = float(x[0, 0])
        if seconds > 1:
            time.sleep(seconds)
        return x[:, :1]
