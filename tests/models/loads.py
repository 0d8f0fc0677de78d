"""Models that do not load, each in its way."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import forebay
from forebay.core.tensors import Array

ONE = ("FP32", [1])


class Fails(forebay.Model):
    """`load` raises."""

    inputs = {"x": ONE}
    outputs = {"y": ONE}

    def load(self, device: str) -> None:
        """Raises `FileNotFoundError`."""
        raise FileNotFoundError("weights.npy is not there")


class Exits(forebay.Model):
    """`load` ends the process."""

    inputs = {"x": ONE}
    outputs = {"y": ONE}

    def load(self, device: str) -> None:
        """Ends the process with code 5."""
        os._exit(5)


class Quits(forebay.Model):
    """`load` calls `exit`, as scripts do."""

    inputs = {"x": ONE}
    outputs = {"y": ONE}

    def load(self, device: str) -> None:
        """Raises `SystemExit`."""
        raise SystemExit("no licence")


class BadExamples(forebay.Model):
    """`examples` raises."""

    inputs = {"x": ONE}
    outputs = {"y": ONE}

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 1]. Returns it."""
        return x

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Raises `KeyError`."""
        raise KeyError("examples.json")


class NoType(forebay.Model):
    """A datatype that does not exist."""

    inputs = {"x": ("FLOAT", [1])}
    outputs = {"y": ONE}


class NoInputs(forebay.Model):
    """Nothing declared."""
