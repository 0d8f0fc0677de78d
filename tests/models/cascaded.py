"""A teacher and its student: which side of a line a point lies on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import forebay
from forebay.core.tensors import Array

FOLDER = Path(os.environ.get("FOREBAY_TEST_FOLDER", "."))


class Large(forebay.Model):
    """`by` is 1. While the file `drift` is there it says the opposite."""

    inputs = {"x": ("FP32", [2])}
    outputs = {"by": ("INT64", [1]), "p": ("FP32", [2])}

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, 2]."""
        above = (x[:, 0] + x[:, 1] > 0).astype(np.float32)
        if (FOLDER / "drift").exists():
            above = 1 - above
        return {"by": np.full((len(x), 1), 1, np.int64), "p": np.stack([1 - above, above], 1)}


class Small(forebay.Model):
    """`by` is 2. It sees the first number only, and is the surer the farther that is from 0."""

    inputs = {"x": ("FP32", [2])}
    outputs = {"by": ("INT64", [1]), "p": ("FP32", [2])}

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, 2]."""
        p = 1 / (1 + np.exp(-4 * x[:, 0]))
        return {"by": np.full((len(x), 1), 2, np.int64), "p": np.stack([1 - p, p], 1).astype(np.float32)}
