"""What is learned of a teacher: one of its outputs, and how its numbers are meant. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.signature import TensorSpec

Form = Literal["probabilities", "logits", "vectors", "numbers"]
"""`probabilities`, `logits`: one number a class. `vectors`: an embedding. `numbers`: quantities."""

Task = Literal["auto", "classes", "vectors", "numbers"]

_FLOATS = ("FP16", "FP32", "FP64")
_WHOLE = ("INT64", "INT32")
_CLASS_WORDS = ("logit", "prob", "score", "class")
_SUM_TOLERANCE, _HALF_SUM_TOLERANCE = 1e-3, 2e-2
_MOST_CLASSES = 64
"""An output of more numbers, without labels and a name that says so, is taken for an embedding."""


@dataclass(frozen=True)
class Target:
    """`index`: an output that is the place of the highest value of this one, which the student answers too, before
    it or behind it as the teacher does.
    """

    spec: TensorSpec
    form: Form
    width: int
    classes: tuple[str, ...] = ()
    unit: bool = False
    """Vectors have length 1."""
    index: TensorSpec | None = None
    index_first: bool = False
    mean: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (1.0,)
    """Of numbers, by place: a student learns each with mean 0 and spread 1."""

    @property
    def name(self) -> str:
        """The output's."""
        return self.spec.name

    @property
    def scalar(self) -> bool:
        """Whether a row has one number without an axis."""
        return self.spec.row_shape == ()

    @property
    def by_class(self) -> bool:
        """Whether there are classes."""
        return self.form in ("probabilities", "logits")

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the student answers, in the teacher's order."""
        if self.index is None:
            return (self.spec,)
        return (self.index, self.spec) if self.index_first else (self.spec, self.index)


@dataclass(frozen=True)
class Wanted:
    """What the user said of the output. `classes`: their names in the order of the output."""

    output: str | None = None
    task: Task = "auto"
    classes: tuple[str, ...] = ()


def check_wanted(outputs: Sequence[TensorSpec], wanted: Wanted) -> None:
    """Raises `SetupError` where the outputs' shapes tell already that what was said of them does not hold."""
    spec = _chosen(outputs, wanted.output)
    width = math.prod(spec.row_shape)
    if width < 0:  # of any length
        return
    if wanted.task == "classes" or wanted.classes:
        _check_several(spec, width)
    _check_classes(spec, width, wanted.classes)
    places = [one for one in outputs if one.datatype in _WHOLE and one.row_shape == ()] if width > 1 else []
    _check_alone(spec, [one.name for one in outputs if one != spec and one not in places], wanted)


def find_target(
    outputs: Sequence[TensorSpec], answers: Mapping[str, Array], wanted: Wanted, labels: Sequence[str] = ()
) -> Target:
    """The target for these answers, by output [rows, ...]. Raises `SetupError` for an output that cannot be learned."""
    spec = _chosen(outputs, wanted.output)
    width = 1 if spec.row_shape == () else int(answers[spec.name].shape[1])
    values = np.asarray(answers[spec.name], np.float64).reshape(-1, width)
    form = _form(spec, values, wanted, labels)
    classes_only = wanted.output is None and width > 1 and form != "numbers"
    index = _index_of(spec, values, outputs, answers) if classes_only else None
    others = [one.name for one in outputs if one not in (spec, index)]
    _check_alone(spec, others, wanted)
    if form == "numbers":
        spread = tuple(float(one) or 1.0 for one in values.std(axis=0))
        return Target(spec, form, width, mean=tuple(values.mean(axis=0).tolist()), spread=spread)
    unit = form == "vectors" and bool(np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-3))
    classes = wanted.classes or tuple(str(place) for place in range(width)) if form != "vectors" else ()
    _check_classes(spec, width, classes)
    names = [one.name for one in outputs]
    first = index is not None and names.index(index.name) < names.index(spec.name)
    return Target(spec, form, width, classes, unit, index, first)


def _chosen(outputs: Sequence[TensorSpec], wanted: str | None) -> TensorSpec:
    names = [spec.name for spec in outputs]
    if wanted is not None and wanted not in names:
        raise SetupError(f"--output {wanted}: the teacher has no such output; it has {', '.join(names)}")
    fits = [spec for spec in outputs if spec.datatype in _FLOATS and len(spec.row_shape) <= 1]
    found = next((spec for spec in fits if wanted in (None, spec.name)), None)
    if found is None:
        told = ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in outputs)
        raise SetupError(
            f"{'--output ' + wanted + ': it' if wanted else 'no output of the teacher'} "
            f"{'is no' if wanted else 'is a'} row of numbers, which is what students learn; the teacher has {told}"
        )
    return found


def _check_several(spec: TensorSpec, width: int) -> None:
    if width < 2:
        raise SetupError(f"--task classes: {spec.name!r} is one number a row, not one a class; leave the option away")


def _check_classes(spec: TensorSpec, width: int, classes: Sequence[str]) -> None:
    if classes and len(classes) != width:
        raise SetupError(f"--classes names {len(classes)}, and {spec.name!r} has {width} numbers; name each, in order")


def _check_alone(spec: TensorSpec, others: Sequence[str], wanted: Wanted) -> None:
    if others and wanted.output is None:
        raise SetupError(
            f"the teacher also answers {', '.join(others)}, which does not follow from {spec.name!r}; a student of one "
            f"output is made with --output {spec.name}"
        )


def _form(spec: TensorSpec, values: Array, wanted: Wanted, labels: Sequence[str]) -> Form:
    width = values.shape[1]
    if wanted.task == "classes" or wanted.classes:
        _check_several(spec, width)
        return _class_form(spec, values)
    if wanted.task != "auto":
        return wanted.task
    if width == 1:
        return "numbers"
    named = any(word in spec.name.lower() for word in _CLASS_WORDS)
    indices = {str(place) for place in range(width)}
    if named or (labels and set(labels) <= indices) or _shares(spec, values).all():
        return _class_form(spec, values)
    unit = bool(np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-3))
    return "vectors" if unit or width > _MOST_CLASSES else _class_form(spec, values)


def _class_form(spec: TensorSpec, values: Array) -> Form:
    """Of an output of one number a class. Raises `SetupError` where these are neither of the two."""
    shares = _shares(spec, values)
    if shares.all():
        return "probabilities"
    if ((values >= 0) & (values <= 1)).all():
        raise SetupError(
            f"{spec.name!r} holds numbers from 0 to 1 that do not sum to 1 in {int((~shares).sum())} of {len(values)} "
            "rows: no probabilities of one class out of several, and no logits. --task numbers learns them as they are"
        )
    return "logits"


def _shares(spec: TensorSpec, values: Array) -> Array:
    """Which rows are shares of 1."""
    tolerance = _HALF_SUM_TOLERANCE if spec.datatype == "FP16" else _SUM_TOLERANCE
    return np.asarray((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1.0) <= tolerance))


def _index_of(
    spec: TensorSpec, values: Array, outputs: Sequence[TensorSpec], answers: Mapping[str, Array]
) -> TensorSpec | None:
    """An output of whole numbers that says where the highest value is, in every answer."""
    for one in outputs:
        if one.datatype in _WHOLE and one.row_shape == ():
            said = np.asarray(answers[one.name]).reshape(-1)
            if np.array_equal(said, values.argmax(axis=1)):
                return one
    return None


def softmax(values: Array) -> Array:
    """Rows of logits as probabilities, float64."""
    shifted = np.asarray(values, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def log_of(probabilities: Array) -> Array:
    """Logits that give these probabilities; what is 0 is taken for very small."""
    return np.log(np.clip(np.asarray(probabilities, np.float64), 1e-7, None))


def probabilities_of(target: Target, values: Array) -> Array:
    """Answers [rows, classes] as probabilities."""
    return np.asarray(values, np.float64) if target.form == "probabilities" else softmax(values)


def logits_of(target: Target, values: Array) -> Array:
    """Answers [rows, classes] as logits."""
    return log_of(values) if target.form == "probabilities" else np.asarray(values, np.float64)


def finished(target: Target, raw: Array) -> Array:
    """A student's raw values [rows, width] as the output means them, float32: what a graph does at its end."""
    values = np.asarray(raw, np.float64)
    if target.form == "probabilities":
        values = softmax(values)
    elif target.form == "numbers":
        values = values * np.asarray(target.spread) + np.asarray(target.mean)
    elif target.unit:
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values.astype(np.float32)
