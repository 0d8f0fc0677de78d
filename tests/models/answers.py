"""A model of texts that notes every text that it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import forebay
from forebay.core.tensors import Array

FOLDER = Path(os.environ.get("FOREBAY_TEST_FOLDER", "."))


class Answers(forebay.Model):
    """What is asked, in capital letters; a line of `answers.runs` in the folder for each."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"answer": ("BYTES", [1])}
    deterministic = True

    def load(self, device: str) -> None:
        """Opens the list."""
        self._runs = os.open(FOLDER / "answers.runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def predict(self, text: Array) -> Array:
        """`text`: object [rows, 1] of bytes."""
        os.write(self._runs, b"".join(value + b"\n" for value in text[:, 0]))
        return np.array([[value.upper()] for value in text[:, 0]], object)

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """What it is tried with."""
        return [{"text": [b"hello"]}]
