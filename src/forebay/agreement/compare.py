"""Whether two forms of a model say the same."""

from __future__ import annotations

from typing import Literal

import numpy as np

from forebay.agreement.confidence import classes_of
from forebay.core.tensors import Array

Judge = Literal["probabilities", "logits", "vectors"]
"""What an output holds, by which answers are compared: classes, or vectors by their cosine."""


def same_rows(one: Array, other: Array, judge: Judge, least_cosine: float) -> Array:
    """Row by row, bool: the same class, or vectors whose cosine is at least this. A vector without length is like no
    other; answers of other shapes are not the same."""
    if one.shape != other.shape:
        return np.zeros(max(1, len(one)), bool)
    if judge != "vectors":
        return np.asarray(classes_of(one, judge) == classes_of(other, judge))
    flat, others = (array.reshape(len(array), -1).astype(np.float64) for array in (one, other))
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((flat * others).sum(axis=1) >= least_cosine * np.where(lengths > 0, lengths, np.inf))
