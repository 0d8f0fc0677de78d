"""The small network of `build.py` as a Python model, in numpy alone.

python examples/mlp/build.py
forebay serve examples/mlp/mlp.py:Mlp
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import forebay
from forebay.core.tensors import Array

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "mlp"


class Mlp(forebay.Model):
    """16 samples of a wave in, the shares of 3 classes out: the same answers as `mlp.onnx`."""

    inputs = {"x": ("FP32", [16])}
    outputs = {"y": ("FP32", [3])}

    folder: Path = FOLDER
    """Where `build.py` wrote `mlp.npz`; may be set before `load`."""

    def load(self, device: str) -> None:
        """Read the weights. Raises `FileNotFoundError` that tells how to make them."""
        file = self.folder / "mlp.npz"
        self.files = [file]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; build it with: python examples/mlp/build.py")
        with np.load(file) as weights:
            self.w1, self.b1, self.w2, self.b2 = (weights[name] for name in ("w1", "b1", "w2", "b2"))

    def predict(self, x: Array) -> Array:
        """`x`: float32 [rows, 16]. Returns float32 [rows, 3], each row summing to 1."""
        scores = np.maximum(x @ self.w1 + self.b1, 0) @ self.w2 + self.b2
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares
