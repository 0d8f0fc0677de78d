"""A metric of the user's own: `module:function` or `file.py:function` from predictions and labels to a number, the
higher the better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.references import importable, open_reference
from forebay.optimize.report import Agreement

_LONGEST = 300
_FORM = "write module:function or file.py:function"


class OwnMetricError(Exception):
    """What the metric does with these answers, for the user."""


@dataclass(frozen=True)
class OwnMetric:
    """The function and the labels of the samples that are judged, in order."""

    reference: str
    function: Callable[[Any, Any], Any]
    labels: Array

    def value(self, answers: Sequence[Array]) -> float:
        """Of the answers to the first samples. Raises `OwnMetricError`."""
        predictions = predictions_of(answers)
        labels = self.labels[: len(answers)].copy()  # whatever it does to them, the next candidate meets the same
        try:
            with importable(self.reference):
                found = self.function(predictions, labels)
        except (Exception, SystemExit) as error:  # the user's code
            told = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
            raise OwnMetricError(f"raised {told} (with {_shown(predictions)} and {_shown(labels)})") from None
        return _number(found)

    def added(self, agreement: Agreement, answers: Sequence[Array]) -> Agreement:
        """The agreement with the metric's value, or with what was wrong with it."""
        if not agreement.finite:
            return agreement
        try:
            return msgspec.structs.replace(agreement, own=self.value(answers))
        except OwnMetricError as error:
            return msgspec.structs.replace(agreement, own_failed=str(error))


def open_metric(reference: str, labels: Sequence[str] = ()) -> OwnMetric:
    """Raises `SetupError` that names what is wrong with the reference."""
    try:
        function = open_reference(reference)
    except (Exception, SystemExit) as error:  # whatever the user's file does when it is read
        raise SetupError(f"--metric {reference} cannot be opened: {type(error).__name__}: {error}; {_FORM}") from None
    if not callable(function):
        raise SetupError(f"--metric {reference} is {type(function).__name__}, no function; {_FORM}")
    return OwnMetric(reference, function, labels_of(labels))


def check_own(reference: str, max_drop: float | None, *, labelled: bool) -> None:
    """Raises `SetupError` where a metric of the user's own lacks what only the user can give."""
    if not labelled:
        raise SetupError(f"--metric {reference} needs labels in the samples: an array `labels`, or a column `label`")
    if max_drop is None:
        raise SetupError(f"--metric {reference} needs --max-drop: how much lower its value may be, in its own unit")


def check_original(metric: OwnMetric, answers: Sequence[Array]) -> None:
    """Raises `SetupError` where the metric has no value for the original's answers."""
    try:
        metric.value(answers)
    except OwnMetricError as error:
        raise SetupError(
            f"--metric {metric.reference} {error} on the original's answers; it takes (predictions, labels) as arrays "
            "and returns a finite number, the higher the better"
        ) from None


def predictions_of(answers: Sequence[Array]) -> Any:
    """The answers as one array [samples, ...]; a list of arrays where they differ in shape, as with a row a token."""
    if len({answer.shape for answer in answers}) > 1:
        return [answer.copy() for answer in answers]
    return np.stack(answers)


def labels_of(labels: Sequence[str]) -> Array:
    """int64 where all are whole numbers, float64 where all are numbers, else texts."""
    for kind in (int, float):
        try:
            return np.array([kind(label) for label in labels], np.int64 if kind is int else np.float64)
        except (ValueError, OverflowError):
            continue
    return np.array(labels)


def _number(found: Any) -> float:
    try:
        if isinstance(found, str | bytes):
            raise TypeError
        value = float(found)
    except (TypeError, ValueError):
        shown = " ".join(repr(found).split())[:60]
        raise OwnMetricError(f"returned {shown} ({type(found).__name__}), which is not a number") from None
    if not math.isfinite(value):
        raise OwnMetricError(f"returned {value}, which is not a finite number")
    return value


def _shown(values: Any) -> str:
    if isinstance(values, list):
        return f"a list of {len(values)} arrays"
    return f"{values.dtype} {list(values.shape)}"
