"""A model that has no answer to some rows, and one output that differs in length from row to row."""

from __future__ import annotations

import numpy as np

import forebay
from forebay.core.tensors import Array


class Teacher(forebay.Model):
    """Whether numbers sum to more than 0."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"hidden": ("FP32", [-1]), "p": ("FP32", [2])}

    def predict(self, x: Array) -> dict[str, Array]:
        """`x`: float32 [rows, numbers]."""
        if (x > 90).any():
            raise ValueError("a number is above 90")
        above = 1 / (1 + np.exp(-4 * x.sum(axis=1)))
        return {"hidden": 2 * x, "p": np.stack([1 - above, above], 1).astype(np.float32)}


class Student(Teacher):
    """The same."""
