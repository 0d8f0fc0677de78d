"""From an output to a label: the largest value, or a fixed linear head on an embedding. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array

_RIDGE = 1.0


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


def choose_head(wanted: Literal["auto", "argmax", "ridge"], outputs: Sequence[Array], labels: Sequence[str]) -> Head:
    """The head for labelled calibration samples. auto: argmax where every label is an index of the output or the output
    is the label, else ridge. Raises `SetupError` where fewer than two labels occur, or where an answer is no single row
    of numbers of one length.
    """
    if len({value.shape for value in outputs}) > 1 or np.squeeze(outputs[0]).ndim > 1:
        shapes = ", ".join(sorted({str(list(value.shape)) for value in outputs})[:3])
        raise SetupError(
            f"labels go with one row of numbers for each sample, the output has {shapes}; name another one with "
            "--output, or compare without labels: --metric cosine, top1 or max_error"
        )
    if len(set(labels)) < 2:
        raise SetupError("all samples have the same label, so that accuracy says nothing; give samples of all classes")
    width = outputs[0].size
    if wanted == "auto":
        indices = {str(index) for index in range(width)}
        wanted = "argmax" if width == 1 or (set(labels) <= indices and width <= 2 * len(set(labels))) else "ridge"
    return ArgmaxHead() if wanted == "argmax" else RidgeHead(outputs, labels)


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
    return str(int(only)) if float(only).is_integer() else str(only)
