"""Does a sample get the same answer alone and in company? Pure: which batches to run, and what their answers tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.agreement import cosine, sample_error
from forebay.optimize.report import Invariance

SIZES = (2, 3, 4, 8, 16, 32)
SHUFFLES = 2
"""Times that a sample is seen in each size, at other places and beside others."""


def company(samples: int, largest: int, seed: int) -> list[list[int]]:
    """Batches of indices below `samples`: in every size up to `largest` each sample occurs `SHUFFLES` times or more.

    The last batch of a size is filled up from the front.
    """
    random = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for size in (size for size in SIZES if size <= min(largest, samples)):
        for _ in range(SHUFFLES):
            order = random.permutation(samples).tolist()
            order += order[: -samples % size]
            batches += [order[start : start + size] for start in range(0, len(order), size)]
    return batches


def judge(
    alone: Sequence[Array], batches: Sequence[Sequence[int]], answers: Sequence[Array], tolerance: float
) -> Invariance:
    """`alone[i]`: the answer to sample i by itself; `answers[k]`: [rows, ...] of `batches[k]`."""
    worst, nearest, compared = 0.0, 1.0, 0
    numeric = alone[0].dtype.kind not in "OSU"
    wide = numeric and all(value.size > 1 for value in alone)
    for batch, answer in zip(batches, answers, strict=True):
        for place, index in enumerate(batch):
            compared += 1
            here = cropped(answer[place], alone[index].shape)
            if not numeric:
                worst = max(worst, 0.0 if np.array_equal(here, alone[index]) else 1.0)
                continue
            worst = max(worst, sample_error(alone[index], here))
            if wide and np.isfinite(here).all():
                nearest = min(nearest, cosine(alone[index], here))
    return Invariance(
        compared=compared,
        max_error=min(worst, float(np.finfo(np.float64).max)),
        min_cosine=nearest if wide else None,
        tolerance=tolerance,
        holds=worst <= tolerance,
    )


def cropped(value: Array, shape: tuple[int, ...]) -> Array:
    """A row without what its batch's padding added to it."""
    if value.ndim != len(shape):
        return value
    return value[tuple(slice(0, axis) for axis in shape)]
