"""The models that the streams of tests/differential are written for, and one that takes its time."""

from __future__ import annotations

import time

import numpy as np

import forebay
from forebay.core.tensors import Array


class Mlp(forebay.Model):
    """y = the first two values, doubled."""

    inputs = {"x": ("FP32", [4])}
    outputs = {"y": ("FP32", [2])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 4]. Returns float32 [rows, 2]."""
        return x[:, :2] * 2


class Text(forebay.Model):
    """Upper case."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"upper": ("BYTES", [1])}

    def predict(self, text: Array) -> Array:
        """`text`: object [rows, 1] of bytes. Returns the same."""
        upper: Array = np.vectorize(bytes.upper, otypes=[object])(text)
        return upper


class Wait(forebay.Model):
    """Sleeps as many milliseconds as the value says, one row at a time."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}
    batching = "off"

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1], milliseconds. Returns the same."""
        time.sleep(float(x.max()) / 1000)
        return x
