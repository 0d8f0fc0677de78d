"""From an output to a label: the largest value, a half, or a fixed linear head on an embedding. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array

HeadName = Literal["argmax", "threshold", "ridge"]
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "argmax": "the place of the largest value, or the one value itself",
        "threshold": "1 from a half on, else 0",
        "ridge": "a linear head, fitted on what the original answers to the calibration samples",
    }
)
_RIDGE = 1.0
_LEAST_A_CLASS = 4
"""Calibration samples of a class, in the mean, below which a linear head learns them by heart and nothing else."""
_BY_CHANCE = 10.0
"""So many times the accuracy of chance tells that the places of an output are classes."""


class Head(Protocol):
    """Judges outputs by labels."""

    name: str

    def accuracy(self, outputs: Sequence[Array], labels: Sequence[str]) -> float:
        """Share of samples whose label is right, 0 to 1."""
        ...


class ArgmaxHead:
    """The label is the index of the largest value; an output of one value is the label itself."""

    name = "argmax"

    def accuracy(self, outputs: Sequence[Array], labels: Sequence[str]) -> float:
        """See `Head.accuracy`."""
        said = [_label(value) for value in outputs]
        return float(np.mean([one == other for one, other in zip(said, labels, strict=True)]))


class ThresholdHead:
    """The label is 1 where the one value, a probability, is a half or more, else 0."""

    name = "threshold"

    def accuracy(self, outputs: Sequence[Array], labels: Sequence[str]) -> float:
        """See `Head.accuracy`."""
        said = ["1" if float(value.reshape(-1)[0]) >= 0.5 else "0" for value in outputs]
        return float(np.mean([one == other for one, other in zip(said, labels, strict=True)]))


class RidgeHead:
    """A linear head by ridge regression on the original's outputs of the calibration samples, and never fitted again:
    every candidate is judged by the head that its embeddings would meet.
    """

    name = "ridge"

    def __init__(self, outputs: Sequence[Array], labels: Sequence[str]) -> None:
        self._classes = sorted(set(labels))
        x = _design(outputs)
        mean = np.mean(x[:, :-1], axis=0)
        self._mean = np.append(mean, 0.0)
        spread = float(np.sqrt(np.mean((x[:, :-1] - mean) ** 2))) or 1.0
        self._spread = np.append(np.full(len(mean), spread), 1.0)
        x = (x - self._mean) / self._spread
        wanted = np.array([[1.0 if label == one else -1.0 for one in self._classes] for label in labels])
        penalty = _RIDGE * np.eye(x.shape[1])
        penalty[-1, -1] = 0.0
        self._weights = np.linalg.solve(x.T @ x + penalty, x.T @ wanted)

    def accuracy(self, outputs: Sequence[Array], labels: Sequence[str]) -> float:
        """See `Head.accuracy`."""
        scores = ((_design(outputs) - self._mean) / self._spread) @ self._weights
        said = [self._classes[index] for index in np.argmax(scores, axis=1)]
        return float(np.mean([one == other for one, other in zip(said, labels, strict=True)]))


def choose_head(wanted: HeadName | Literal["auto"], outputs: Sequence[Array], labels: Sequence[str]) -> Head:
    """The head for labelled calibration samples. auto: argmax where every label is an index of the output and as many
    are right as chance does not bring, or where the output is the label; threshold where the output is one probability;
    else ridge. Raises `SetupError` where fewer than two labels occur, where an answer is no single row of numbers of
    one length, and where the head cannot tell labels from these answers.
    """
    if len({value.shape for value in outputs}) > 1 or np.squeeze(outputs[0]).ndim > 1:
        shapes = ", ".join(sorted({str(list(value.shape)) for value in outputs})[:3])
        raise SetupError(
            f"labels go with one row of numbers for each sample, the output has {shapes}; name another one with "
            "--output, or compare without labels: --metric cosine, top1 or max_error"
        )
    if len(set(labels)) < 2:
        raise SetupError("all samples have the same label, so that accuracy says nothing; give samples of all classes")
    if wanted == "auto":
        wanted = _suitable(outputs, labels)
    _check(wanted, outputs, labels)
    return open_head(wanted, outputs, labels)


def open_head(name: str, outputs: Sequence[Array], labels: Sequence[str]) -> Head:
    """A head by its name; a linear one is fitted."""
    if name == "ridge":
        return RidgeHead(outputs, labels)
    return ThresholdHead() if name == "threshold" else ArgmaxHead()


def _check(wanted: HeadName, outputs: Sequence[Array], labels: Sequence[str]) -> None:
    """Raises `SetupError` where this head cannot tell labels from these answers."""
    first, classes = outputs[0], len(set(labels))
    if first.dtype.kind in "OSU" and (wanted != "argmax" or first.size > 1):
        raise SetupError(
            f"the output holds texts, {list(first.shape)} a sample, and --head {wanted} is for numbers; a label is "
            "compared with one text: name another output with --output, or compare without labels: --metric top1"
        )
    if wanted == "threshold" and not _is_probability(outputs, labels):
        raise SetupError(
            "--head threshold is for an output of one number from 0 to 1 and labels 0 and 1, the output has "
            f"{list(first.shape)} and the labels are {_shown(labels)}; name another output with --output"
        )
    if wanted == "argmax" and first.size == 1 and ArgmaxHead().accuracy(outputs, labels) == 0.0:
        mend = "write labels as the model answers them"
        if first.dtype.kind == "f":
            mend = (
                "a probability needs labels 0 and 1 (--head threshold), and any other number is compared without "
                "labels: --metric max_error"
            )
        raise SetupError(
            f"the output is one value a sample, such as {_label(first)}, and never the label ({_shown(labels)}); {mend}"
        )
    if wanted == "ridge" and len(labels) < _LEAST_A_CLASS * classes:
        raise SetupError(
            f"a linear head for {classes} labels cannot be fitted on {len(labels)} calibration samples; give "
            f"{_LEAST_A_CLASS} or more a label (and --max-samples), or --head argmax where labels are places in the "
            "output, or compare without labels: --metric cosine, top1 or max_error"
        )


def _suitable(outputs: Sequence[Array], labels: Sequence[str]) -> HeadName:
    width = outputs[0].size
    if width == 1:
        whole = all(_label(value) in labels for value in outputs)
        return "threshold" if not whole and _is_probability(outputs, labels) else "argmax"
    if not set(labels) <= {str(index) for index in range(width)}:
        return "ridge"
    if width <= 2 * len(set(labels)):
        return "argmax"
    # Few samples show few of many classes. The largest value of an embedding, though, is hardly ever the label, or
    # always at one place.
    right = [label for value, label in zip(outputs, labels, strict=True) if _label(value) == label]
    often = len(right) >= len(labels) * _BY_CHANCE / width
    return "argmax" if often and len(set(right)) >= min(3, len(set(labels))) else "ridge"


def _is_probability(outputs: Sequence[Array], labels: Sequence[str]) -> bool:
    numbers = outputs[0].size == 1 and outputs[0].dtype.kind == "f" and set(labels) <= {"0", "1"}
    return numbers and all(0.0 <= float(value.reshape(-1)[0]) <= 1.0 for value in outputs)


def _shown(labels: Sequence[str]) -> str:
    some = sorted(set(labels))
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")


def _design(outputs: Sequence[Array]) -> Array:
    """float64 [samples, values + 1], the last column 1."""
    values = np.stack([np.asarray(value, np.float64).reshape(-1) for value in outputs])
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)


def _label(value: Array) -> str:
    if value.size > 1:
        return str(int(np.argmax(value)))
    only = value.reshape(-1)[0]
    if isinstance(only, bytes):
        return only.decode("utf-8", "replace")
    if isinstance(only, str):
        return only
    return str(int(only)) if float(only).is_integer() else str(only)
