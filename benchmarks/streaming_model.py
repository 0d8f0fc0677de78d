"""The model of the streaming workload: its first piece is made at once and holds the time at which it was made."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

import forebay
from forebay.core.tensors import Array


class Instant(forebay.Model):
    """Two pieces without any work: monotonic seconds before its own first line, and at each yield."""

    inputs = {"x": ("FP32", [])}
    outputs = {"began": ("FP64", []), "at": ("FP64", [])}

    def predict(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """`x`: float32 [rows]. Both outputs float64 [rows]."""
        began = np.full(len(x), time.monotonic())
        for _ in range(2):
            yield began, np.full(len(x), time.monotonic())
