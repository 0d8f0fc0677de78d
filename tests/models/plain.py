"""Models that work: every datatype, variable shapes, several outputs, and one whose rows are not independent."""

from __future__ import annotations

import forebay
from forebay.core.tensors import NUMPY_TYPES, Array


class Echo(forebay.Model):
    """Gives back one input of each datatype, two elements a row."""

    inputs = {f"in_{name.lower()}": (name, [2]) for name in NUMPY_TYPES}
    outputs = {f"out_{name.lower()}": (name, [2]) for name in NUMPY_TYPES}

    def predict(self, **tensors: Array) -> dict[str, Array]:
        """Every input under its output's name."""
        return {name.replace("in_", "out_"): array for name, array in tensors.items()}


class Texts(forebay.Model):
    """Upper-cases text; also tells the length in bytes."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"upper": ("BYTES", [1]), "size": ("INT32", [1])}

    def predict(self, text: Array) -> tuple[list[list[bytes]], list[list[int]]]:
        """`text`: bytes [rows, 1]. Returns bytes [rows, 1] and int32 [rows, 1]."""
        rows = [row[0] for row in text.tolist()]
        return [[row.upper()] for row in rows], [[len(row)] for row in rows]


class Words(forebay.Model):
    """Counts the texts of a row, and those that hold something."""

    inputs = {"words": ("BYTES", [-1])}
    outputs = {"counts": ("INT32", [2])}

    def predict(self, words: Array) -> list[list[int]]:
        """`words`: bytes [rows, any]. Returns int32 [rows, 2]."""
        return [[len(row), sum(map(bool, row))] for row in words.tolist()]


class Ragged(forebay.Model):
    """Gives back rows of any length, and their sums. Rows of different lengths may not be padded."""

    inputs = {"x": ("FP32", [-1])}
    outputs = {"same": ("FP32", [-1]), "total": ("FP32", [1])}
    pad = False

    def predict(self, x: Array) -> tuple[Array, Array]:
        """`x`: float32 [rows, any]. Returns it and float32 [rows, 1]."""
        return x, x.sum(axis=1, keepdims=True)


class Centred(forebay.Model):
    """Subtracts the mean of the *batch*: a row's answer depends on its company, so it must run alone."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns float32 [rows, 1]."""
        centred: Array = x - x.mean()
        return centred


class Settings(forebay.Model):
    """Settings as class attributes."""

    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}
    max_batch_rows = 4
    slo_ms = 1500.0
    instances = 1

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns it."""
        return x
