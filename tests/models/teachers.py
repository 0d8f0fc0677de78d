"""Teachers for `forebay distill`: what they answer is known."""

from __future__ import annotations

import time

import numpy as np

import forebay
from forebay.core.tensors import Array

GOOD, BAD = ("good", "great", "lovely"), ("bad", "awful", "dull")


class Keyword(forebay.Model):
    """Texts to the probabilities of bad and good, by their words."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"probabilities": ("FP32", [2])}

    def predict(self, text: Array) -> Array:
        words = [value.decode().lower().split() for value in text[:, 0]]
        liking = np.array([sum(w in GOOD for w in one) - sum(w in BAD for w in one) for one in words])
        good = 1 / (1 + np.exp(-2.0 * liking))
        return np.stack([1 - good, good], axis=1).astype(np.float32)


class Slow(forebay.Model):
    """Numbers to two scores, a row at a time and slowly; rows that begin with a negative number of more than 3 are
    refused.
    """

    inputs = {"x": ("FP32", [4])}
    outputs = {"scores": ("FP32", [2])}
    max_batch_rows = 1

    def predict(self, x: Array) -> Array:
        time.sleep(0.02)
        if (x[:, 0] < -3).any():
            raise ValueError("that is too little")
        return np.stack([x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]], axis=1)
