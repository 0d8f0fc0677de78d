"""How sure a model is of its answer, row by row: the probability of the class that it chose.

Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks",
ICLR 2017: the maximum softmax probability.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from forebay.core.tensors import Array

Form = Literal["probabilities", "logits"]
_SUMS_TO = 0.02
"""A row of probabilities may be so far from 1 in sum: they may have been rounded, or be of 16 bits."""


def form_of(values: Array) -> Form | None:
    """What an output of shape [rows, classes] or [rows] holds, by its values; None: neither.

    One value a row is the probability of the second of two classes, or its logit.
    """
    if values.dtype.kind != "f" or values.ndim not in (1, 2) or not len(values) or not np.isfinite(values).all():
        return None
    table = values.reshape(len(values), -1).astype(np.float64)
    if not table.shape[1]:
        return None
    within = table.min() >= 0.0 and table.max() <= 1.0
    if table.shape[1] == 1:
        return "probabilities" if within else "logits"
    return "probabilities" if within and np.abs(table.sum(axis=1) - 1.0).max() <= _SUMS_TO else "logits"


def classes_of(values: Array, form: Form) -> Array:
    """The class that each row is given: int64, shape [rows]."""
    table = values.reshape(len(values), -1)
    if table.shape[1] == 1:
        return (table[:, 0] >= (0.5 if form == "probabilities" else 0.0)).astype(np.int64)
    return np.asarray(table.argmax(axis=1))


def confidence_of(values: Array, form: Form) -> Array:
    """How probable that class is: float64, shape [rows], 0 where a row holds a value that is no number."""
    table = values.reshape(len(values), -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if form == "logits":
            if table.shape[1] == 1:
                table = np.concatenate([np.zeros_like(table), table], axis=1)
            table = np.exp(table - table.max(axis=1, keepdims=True))
            sure = 1.0 / table.sum(axis=1)
        elif table.shape[1] == 1:
            sure = np.maximum(table[:, 0], 1.0 - table[:, 0])
        else:
            sure = table.max(axis=1)
    return np.where(np.isfinite(sure) & (sure <= 1.0 + _SUMS_TO), sure, 0.0)
