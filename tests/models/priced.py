"""What something costs, above 0, and two faster forms of it: one near, one that is off by more than prices vary."""

from __future__ import annotations

import time

import numpy as np

import forebay
from forebay.core.tensors import Array


class Price(forebay.Model):
    """The model itself."""

    inputs = {"x": ("FP32", [2])}
    outputs = {"price": ("FP32", [1])}
    row_s, above = 0.004, 0.0

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, 2]."""
        time.sleep(self.row_s * len(x))
        return {"price": (1000 + self.above + 10 * x.sum(axis=1, keepdims=True)).astype(np.float32)}


class Near(Price):
    """Nearly the same."""

    row_s, above = 0.001, 0.5


class Off(Price):
    """Always the same amount too much."""

    row_s, above = 0.0002, 100.0
