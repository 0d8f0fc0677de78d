"""How near a student is to its teacher, and each of them to the truth. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import Array
from forebay.distill.report import ClassReport, Disagreement
from forebay.distill.target import Target, probabilities_of

ECE_BINS = 15
"""As in Guo et al. 2017, On Calibration of Modern Neural Networks."""
SHOWN = 20
_VALUES = 8


def agreement(target: Target, teacher: Array, student: Array) -> float:
    """Of answers [rows, width]: share of rows with the same highest class; of vectors the mean cosine; of numbers the
    share of the teacher's variance that is explained, at the place where it is least.
    """
    if target.by_class:
        return float(np.mean(teacher.argmax(axis=1) == student.argmax(axis=1)))
    mine, theirs = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    if target.form == "vectors":
        return float(np.mean(cosines(theirs, mine)))
    total = np.sum((theirs - theirs.mean(axis=0)) ** 2, axis=0)
    left = np.sum((theirs - mine) ** 2, axis=0)
    varies = total > 0
    return float(np.min(1.0 - left[varies] / total[varies])) if varies.any() else float((left == 0.0).all())


def cosines(one: Array, other: Array) -> Array:
    """Of each pair of rows; 0 where one of them has no length."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray(np.sum(one * other, axis=1) / np.where(lengths > 0, lengths, 1.0))


def constant_agreement(target: Target, teacher: Array) -> float:
    """The best agreement of a model that answers one and the same to everything."""
    if target.by_class:
        return float(np.bincount(teacher.argmax(axis=1)).max() / len(teacher))
    rows = np.asarray(teacher, np.float64)
    if target.form == "vectors":  # the direction that is nearest to all, whatever their lengths
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return agreement(target, teacher, np.broadcast_to(rows.mean(axis=0), teacher.shape))


def accuracy(answers: Array, labels: Array) -> float:
    """Share of rows whose highest class is the label."""
    return float(np.mean(answers.argmax(axis=1) == labels))


def calibration_error(probabilities: Array, labels: Array, bins: int = ECE_BINS) -> float:
    """Expected calibration error: how far the confidence is from the share that is right, in bins of equal width, each
    by its share of the rows.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # A bin holds its upper edge, not its lower one.
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    error = 0.0
    for place in range(bins):
        inside = places == place
        if inside.any():
            error += float(inside.mean()) * abs(float(right[inside].mean()) - float(confidence[inside].mean()))
    return error


def by_class(target: Target, teacher: Array, student: Array, labels: Array | None) -> list[ClassReport]:
    """Each class: with labels, how much of it either finds and what the student loses; else how often the student
    says what the teacher says.
    """
    mine, theirs = student.argmax(axis=1), teacher.argmax(axis=1)
    truth = theirs if labels is None else labels
    found = []
    for place, name in enumerate(target.classes):
        rows = truth == place
        if not rows.any():
            continue
        of_student = float(np.mean(mine[rows] == place))
        of_teacher = float(np.mean(theirs[rows] == place))
        found.append(
            ClassReport(
                name=name, rows=int(rows.sum()), teacher=of_teacher, student=of_student, drop=of_teacher - of_student
            )
        )
    return found


def disagreements(
    target: Target, teacher: Array, student: Array, labels: Array | None, shown: Sequence[str]
) -> list[Disagreement]:
    """The rows where they differ most, the furthest apart first; of classes only those with another highest one."""
    if target.by_class:
        one, other = probabilities_of(target, teacher), probabilities_of(target, student)
        gaps = np.abs(one - other).max(axis=1)
        gaps[one.argmax(axis=1) == other.argmax(axis=1)] = 0.0
    else:
        one, other = np.asarray(teacher, np.float64), np.asarray(student, np.float64)
        gaps = 1.0 - cosines(one, other) if target.form == "vectors" else np.abs(one - other).max(axis=1)
    order = [int(row) for row in np.argsort(-gaps, kind="stable")[:SHOWN] if gaps[row] > 0]
    return [
        Disagreement(
            row=row,
            shown=shown[row],
            gap=float(gaps[row]),
            teacher=[float(value) for value in one[row][:_VALUES]],
            student=[float(value) for value in other[row][:_VALUES]],
            teacher_class=_class(target, one[row]),
            student_class=_class(target, other[row]),
            label=target.classes[int(labels[row])] if labels is not None and target.by_class else "",
        )
        for row in order
    ]


def _class(target: Target, values: Array) -> str:
    return target.classes[int(values.argmax())] if target.by_class else ""
