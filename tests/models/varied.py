"""A model and two faster forms of it: which of three sectors a point lies in."""

from __future__ import annotations

import time

import numpy as np

import forebay
from forebay.core.tensors import Array


class _Sectors(forebay.Model):
    """`by` says who answered."""

    inputs = {"x": ("FP32", [2])}
    outputs = {"by": ("INT64", [1]), "p": ("FP32", [3])}
    max_batch_rows = 32  # starts time batches of all sizes, and each row sleeps
    row_s, by, turned = 0.0, 0, 0.0

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, 2]."""
        time.sleep(self.row_s * len(x))
        angle = np.arctan2(x[:, 1], x[:, 0]) + np.pi + self.turned
        p = np.eye(3, dtype=np.float32)[(angle / (2 * np.pi / 3)).astype(int) % 3]
        return {"by": np.full((len(x), 1), self.by, np.int64), "p": p}


class Large(_Sectors):
    """The model itself."""

    row_s, by = 0.01, 1


class Fast(_Sectors):
    """Wrong near the edges of the sectors."""

    row_s, by, turned = 0.002, 2, 0.06


class Fastest(_Sectors):
    """Wrong more often."""

    row_s, by, turned = 0.0004, 3, 0.6
