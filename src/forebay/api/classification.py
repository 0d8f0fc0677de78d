"""The classification extension: an output as its highest values, with their indices and labels.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
Each element is `<value>:<index>[:<label>]`, one list a row of the batch. Values are written as short as their datatype
allows ("3.3:1", as in that document; Triton's own code writes six decimals).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import Array

UNCLASSIFIABLE = ("BOOL", "BYTES")
"""Datatypes without an order worth asking for; Triton refuses them too."""


def classify(rows: Array, count: int, labels: Sequence[str]) -> list[str]:
    """The `count` highest values of each row of a [rows, width] array, best first; of equal values the first wins.

    NaN is below every number. A class beyond the labels, or with an empty one, has none.
    """
    texts: list[str] = []
    for row in rows:
        for index in _highest(row, count).tolist():
            text = f"{row[index]!s}:{index}"
            if index < len(labels) and labels[index]:
                text = f"{text}:{labels[index]}"
            texts.append(text)
    return texts


def _highest(row: Array, count: int) -> Array:
    """The indices of the `count` highest values, in falling order."""
    if row.dtype.kind == "f":
        row = np.where(np.isnan(row), -np.inf, row)
    if count == 1 and len(row):
        return np.array([row.argmax()])
    chosen = np.arange(len(row))
    if 0 < count < len(row) // 4:
        least = np.partition(row, len(row) - count)[len(row) - count]
        chosen = np.flatnonzero(row >= least)
    # A stable sort of the reversed values, reversed, falls and keeps the first of equal ones first.
    order = np.argsort(row[chosen][::-1], kind="stable")[::-1]
    found: Array = chosen[len(chosen) - 1 - order][:count]
    return found
