"""scikit-learn's handwritten digits in two halves: one to train with, one to judge by."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from forebay.core.tensors import Array

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "digits"
"""Where the examples put what they make of them."""


class Split(NamedTuple):
    """Pictures float32 [n, 1, 8, 8] in 0 to 1 and their classes int64 [n]."""

    trained_x: Array
    trained_y: Array
    held_x: Array
    held_y: Array


def load_split() -> Split:
    """898 pictures to train with and 899 held out, by a fixed seed; each digit is as frequent in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pictures = (data.images / 16).astype(np.float32)[:, np.newaxis]
    labels = data.target.astype(np.int64)
    trained_x, held_x, trained_y, held_y = train_test_split(
        pictures, labels, test_size=0.5, stratify=labels, random_state=0
    )
    return Split(trained_x, trained_y, held_x, held_y)
