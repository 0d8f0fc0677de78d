"""MiniLM with a linear head: texts to the probabilities of two sentiments, negative and positive. A teacher for
`forebay distill`, see docs/distill.md.

python examples/minilm/build.py
python examples/minilm/samples.py
python examples/minilm/head.py
forebay serve examples/minilm/classifier.py:Classifier
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import forebay
from forebay.core.tensors import Array

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.minilm.minilm import FOLDER, MiniLM

HEAD = "head.npz"


class Classifier(forebay.Model):
    """UTF-8 text (BYTES) to probabilities (FP32, negative and positive)."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"probabilities": ("FP32", [2])}

    folder: Path = FOLDER
    """Where `build.py` and `head.py` wrote; may be set before `load`."""
    head_folder: Path | None = None
    """Where the head is, if elsewhere: a head for other texts is a class of its own."""
    made_by = "examples/minilm/head.py"

    def load(self, device: str) -> None:
        """Open MiniLM and the head. Raises `FileNotFoundError` that tells how to make them."""
        self.minilm = MiniLM()
        self.minilm.folder, self.minilm.threads = self.folder, self.threads
        self.minilm.load(device)
        file = (self.head_folder or self.folder) / HEAD
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; make it with: python {self.made_by}")
        self.files = [*self.minilm.files, file]
        with np.load(file, allow_pickle=False) as head:
            self.weights, self.bias = head["weights"], head["bias"]

    def predict(self, text: Array) -> Array:
        """`text`: object [rows, 1] of bytes. Returns float32 [rows, 2]."""
        logits = self.minilm.predict(text) @ self.weights + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)
