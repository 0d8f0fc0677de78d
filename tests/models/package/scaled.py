"""A model that imports from its own package."""

from __future__ import annotations

import forebay
from forebay.core.tensors import Array

from .factor import FACTOR


class Scaled(forebay.Model):
    """y = 3x."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        return x * FACTOR
