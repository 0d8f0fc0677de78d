"""Does a sample get the same answer alone and in company? Pure: which batches to run, and what their answers tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.agreement import cosine, sample_error
from forebay.optimize.report import Invariance

SIZES = (2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 64, 128, 256)
"""Libraries choose their kernels by the size of a batch, and not only by powers of two."""


def company(samples: int, largest: int, seed: int) -> list[list[int]]:
    """Batches of indices below `samples`: in every size up to `largest` each sample occurs, each time at another place
    and beside others. The last batch of a size is filled up from the front.
    """
    random = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for size in (size for size in SIZES if size <= largest):
        order = random.permutation(samples).tolist()
        rows = -(-samples // size) * size
        filled = (order * (rows // samples + 1))[:rows]
        batches += [filled[start : start + size] for start in range(0, rows, size)]
    return batches


def judge(
    alone: Sequence[Array], batches: Sequence[Sequence[int]], answers: Sequence[Array], tolerance: float
) -> Invariance:
    """`alone[i]`: the answer to sample i by itself; `answers[k]`: [rows, ...] of `batches[k]`."""
    worst, nearest, compared, finite = 0.0, 1.0, 0, True
    numeric = alone[0].dtype.kind not in "OSU"
    wide = numeric and all(value.size > 1 for value in alone)
    for batch, answer in zip(batches, answers, strict=True):
        for place, index in enumerate(batch):
            compared += 1
            here = cropped(answer[place, ...], alone[index].shape)
            if not numeric:
                worst = max(worst, 0.0 if np.array_equal(here, alone[index]) else 1.0)
                continue
            if here.shape != alone[index].shape:
                raise ValueError(
                    f"a sample is answered {list(alone[index].shape)} alone, {list(here.shape)} in a batch"
                )
            worst = max(worst, sample_error(alone[index], here))
            if not np.isfinite(here).all():
                finite = False
            elif wide:
                nearest = min(nearest, cosine(alone[index], here))
    return Invariance(
        compared=compared,
        max_error=min(worst, float(np.finfo(np.float64).max)),
        min_cosine=nearest if wide else None,
        tolerance=tolerance,
        holds=worst <= tolerance,
        finite=finite,
    )


def cropped(value: Array, shape: tuple[int, ...]) -> Array:
    """A row without what its batch's padding added to it."""
    if value.ndim != len(shape):
        return value
    return value[tuple(slice(0, axis) for axis in shape)]
