"""Whether two forms of a model say the same."""

from __future__ import annotations

from typing import Literal

import numpy as np

from forebay.agreement.confidence import classes_of
from forebay.core.tensors import Array

Judge = Literal["probabilities", "logits", "vectors", "numbers"]
"""What an output holds, by which answers are compared: classes, vectors by their cosine, or one number by its
difference, since the cosine of one number is only its sign."""


def is_one_number(values: Array) -> bool:
    """Whether each row is a single number."""
    return values.size == len(values) > 0


def same_rows(one: Array, other: Array, judge: Judge, least_cosine: float, most_apart: float = 0.0) -> Array:
    """Row by row, bool: the same class, vectors whose cosine is at least this, or numbers that are no farther apart. A
    vector without length is like no other but its equal; answers of other shapes are not the same."""
    if one.shape != other.shape:
        return np.zeros(max(1, len(one)), bool)
    if judge in ("probabilities", "logits"):
        return np.asarray(classes_of(one, judge) == classes_of(other, judge))
    flat, others = (array.reshape(len(array), -1).astype(np.float64) for array in (one, other))
    if judge == "numbers":
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return np.asarray((np.abs(flat - others) <= most_apart).all(axis=1))
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1)
    alike = (flat * others).sum(axis=1) >= least_cosine * np.where(lengths > 0, lengths, np.inf)
    return np.asarray(alike | (flat == others).all(axis=1))
