"""Teachers and rows for tests of `forebay.distill`, with answers that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forebay.core.tensors import Array, bytes_array
from forebay.distill.report import Epoch
from forebay.distill.students.port import Subject
from forebay.distill.target import Target, Wanted, find_target
from forebay.distill.teacher import Answered
from forebay.distill.transfer import Part
from forebay.models.artefact import ServedWith
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row

CLASSES = TensorSpec("probabilities", "FP32", (3,))


def target(form: str = "logits", width: int = 3, **more: Any) -> Target:
    """An output of this form."""
    spec = TensorSpec("y", "FP32", (width,))
    classes = tuple(str(place) for place in range(width)) if form in ("logits", "probabilities") else ()
    return Target(spec, form, width, classes, **more)  # type: ignore[arg-type]


def numbers(count: int = 200, features: int = 6, seed: int = 0) -> list[Row]:
    """Rows of one input `x`."""
    values = np.random.default_rng(seed).standard_normal((count, features)).astype(np.float32)
    return [{"x": row} for row in values]


def texts(lines: Sequence[str]) -> list[Row]:
    """Rows of one BYTES input `text`."""
    return [{"text": bytes_array([line.encode()], (1,))} for line in lines]


def numeric_subject(wanted: Array, form: str = "probabilities") -> Subject:
    """A teacher of numbers that answers like this."""
    signature = Signature((TensorSpec("x", "FP32", (6,)),), (TensorSpec("y", "FP32", wanted.shape[1:]),))
    task = "classes" if form in ("probabilities", "logits") else form
    found = find_target(signature.outputs, {"y": wanted}, Wanted(task=task))  # type: ignore[arg-type]
    return Subject(signature, found)


def part(rows: list[Row], wanted: Array, labels: Array | None = None) -> Part:
    """Rows with answers."""
    values = np.asarray(wanted, np.float32).reshape(len(rows), -1)
    return Part(rows, values, np.full(len(rows), -1, np.int64) if labels is None else labels)


def linear_answers(rows: Sequence[Row], width: int = 3, seed: int = 1) -> Array:
    """Probabilities that a linear model gives."""
    weights = np.random.default_rng(seed).standard_normal((6, width))
    raw = np.stack([row["x"] for row in rows]) @ weights
    shares = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


class FakeTeacher:
    """See `Teacher`: answers the mean of a row, and remembers who asked what."""

    name, digest, argument = "fake", "d" * 64, "fake.onnx"
    served_with = ServedWith()
    signature = Signature((TensorSpec("x", "FP32", (6,)),), (TensorSpec("y", "FP32", (2,)),))

    def __init__(self, *, fails_after: int | None = None, refuses: Sequence[int] = ()) -> None:
        self.asked: list[Row] = []
        self._fails_after, self._refuses = fails_after, refuses

    def ask(self, rows: Sequence[Row], answered: Answered) -> None:
        """Each in turn; a kill comes after so many."""
        for place, row in enumerate(rows):
            if self._fails_after is not None and place >= self._fails_after:
                raise KeyboardInterrupt
            self.asked.append(row)
            if place in self._refuses:
                answered(place, "it is too long")
            else:
                mean = float(row["x"].mean())
                answered(place, {"y": np.array([mean, -mean], np.float32)})


class Heard:
    """See `Watcher`: what was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked: list[tuple[int, int]] = []
        self.epochs: list[Epoch] = []

    def says(self, text: str) -> None:
        self.said.append(text)

    def asking(self, done: int, total: int, rows_per_s: float) -> None:
        self.asked.append((done, total))

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
