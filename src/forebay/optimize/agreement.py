"""How far a candidate's answers are from the original's. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.heads import Head
from forebay.optimize.report import Agreement, WorstSample

_SHOWN = 8
_WORST = 5


def compare(
    original: Sequence[Array], candidate: Sequence[Array], labels: Sequence[str], head: Head | None
) -> Agreement:
    """One array a sample, in the same order, alike in shape. `labels` and `head` go together, or there are none.

    Texts (BYTES) are compared for equality, as `top1`. Classes lie along the last axis: an answer of several rows of
    classes, such as one a token, counts by the share of its rows.
    """
    samples = len(original)
    if original[0].dtype.kind in "OSU":
        same = [bool(np.array_equal(a, b)) for a, b in zip(original, candidate, strict=True)]
        accuracy = head.accuracy(candidate, labels) if head is not None else None
        return Agreement(samples=samples, finite=True, top1=float(np.mean(same)), accuracy=accuracy)
    if not finite(candidate):
        return Agreement(samples=samples, finite=False)
    errors = [sample_error(a, b) for a, b in zip(original, candidate, strict=True)]
    wide = all(value.size > 1 for value in original)
    cosines = [cosine(a, b) for a, b in zip(original, candidate, strict=True)] if wide else []
    top1 = None
    if wide:
        top1 = float(np.mean([same_classes(a, b) for a, b in zip(original, candidate, strict=True)]))
    elif original[0].dtype.kind != "f":
        top1 = float(np.mean([np.array_equal(a, b) for a, b in zip(original, candidate, strict=True)]))
    return Agreement(
        samples=samples,
        finite=True,
        mean_cosine=float(np.mean(cosines)) if cosines else None,
        min_cosine=float(np.min(cosines)) if cosines else None,
        length_error=_length_error(original, candidate) if wide else None,
        top1=top1,
        max_error=float(np.max(errors)),
        scale=scale_of(original),
        distance=_distance(original, candidate) if original[0].dtype.kind == "f" else None,
        accuracy=head.accuracy(candidate, labels) if head is not None else None,
    )


def finite(values: Sequence[Array]) -> bool:
    """Whether no NaN and no infinity is among them; texts are finite."""
    return all(value.dtype.kind in "OSU" or bool(np.isfinite(value).all()) for value in values)


def same_classes(a: Array, b: Array) -> float:
    """Share of rows along the last axis whose highest value is at the same place."""
    if a.shape[-1] == 1:
        a, b = a.reshape(-1), b.reshape(-1)
    return float(np.mean(np.argmax(a, axis=-1) == np.argmax(b, axis=-1)))


def cosine(a: Array, b: Array) -> float:
    """Of two arrays of one shape, as vectors. Two zeros are alike, zero and something else are not."""
    x, y = np.asarray(a, np.float64).reshape(-1), np.asarray(b, np.float64).reshape(-1)
    product = _length(x) * _length(y)
    if product == 0.0:
        return 1.0 if np.array_equal(x, y) else 0.0
    return float(x @ y) / product


def _distance(original: Sequence[Array], candidate: Sequence[Array]) -> float:
    """All samples are one long vector here: a sample that is near zero may turn, and says little by that."""
    gap = sum(_length(np.asarray(a, np.float64) - b) ** 2 for a, b in zip(original, candidate, strict=True))
    whole = sum(_length(a) ** 2 for a in original)
    return math.sqrt(gap / whole) if whole else float(gap != 0.0)


def _length_error(original: Sequence[Array], candidate: Sequence[Array]) -> float:
    shares = []
    for a, b in zip(original, candidate, strict=True):
        had, has = _length(a), _length(b)
        shares.append(abs(has - had) / had if had else float(has != 0.0))
    return float(np.mean(shares))


def _length(value: Array) -> float:
    return float(np.linalg.norm(np.asarray(value, np.float64).reshape(-1)))


def sample_error(a: Array, b: Array) -> float:
    """Largest absolute difference of two arrays; infinite where one of them is not finite."""
    with np.errstate(all="ignore"):
        gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0))


def scale_of(values: Sequence[Array]) -> float:
    """The largest absolute value; 1 where all are 0."""
    return max((float(np.max(np.abs(np.asarray(v, np.float64)), initial=0.0)) for v in values), default=0.0) or 1.0


def worst_samples(
    original: Sequence[Array], candidate: Sequence[Array], numbers: Sequence[int], shown: Sequence[str]
) -> list[WorstSample]:
    """The samples with the largest errors, the largest first. None for texts. `numbers`: of each in its file."""
    if original[0].dtype.kind in "OSU":
        return []
    errors = [sample_error(a, b) for a, b in zip(original, candidate, strict=True)]
    order = sorted(range(len(errors)), key=lambda index: -errors[index])[:_WORST]
    return [
        WorstSample(
            sample=numbers[index],
            shown=shown[index],
            error=errors[index] if np.isfinite(errors[index]) else None,
            original=_first(original[index]),
            candidate=_first(candidate[index]),
        )
        for index in order
        if errors[index] > 0
    ]


def _first(value: Array) -> list[float]:
    """JSON has no NaN: what is not finite is shown as 0."""
    return [float(number) for number in np.nan_to_num(np.asarray(value, np.float64).reshape(-1)[:_SHOWN])]
