"""A model that misbehaves on request, to see what a bad row does to its neighbours.

forebay serve examples/poison.py:Poison
"""

from __future__ import annotations

import os
import threading

import forebay
from forebay.core.tensors import Array

RAISES, KILLS, HANGS = 13.0, 666.0, 777.0


class Poison(forebay.Model):
    """y = 2x, but 13 raises `ValueError`, 666 ends the process with code 9, and 777 never returns."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]. One bad row is enough to spoil the whole batch."""
        if (x == KILLS).any():
            os._exit(9)
        if (x == HANGS).any():
            threading.Event().wait()
        if (x == RAISES).any():
            raise ValueError("13 is not a number this model likes")
        return x * 2
