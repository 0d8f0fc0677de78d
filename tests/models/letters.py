"""An embedder for tests: how often each letter stands in a text."""

from __future__ import annotations

import numpy as np

import forebay
from forebay.core.tensors import Array


class Letters(forebay.Model):
    inputs = {"text": ("BYTES", [1])}
    outputs = {"embedding": ("FP32", [27])}

    def predict(self, text: Array) -> Array:
        counts = [[1, *(value.lower().count(bytes([letter])) for letter in range(97, 123))] for value in text[:, 0]]
        return np.array(counts, np.float32)
