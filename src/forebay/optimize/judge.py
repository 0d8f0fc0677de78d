"""How near the answers of a model are to the original's on calibration rows, while a recipe is still being made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.agreement import compare
from forebay.optimize.gate import check_same_model, drop_of
from forebay.optimize.heads import Head, open_head
from forebay.optimize.metric import OwnMetric, open_metric
from forebay.optimize.report import Agreement, Goals
from forebay.optimize.samples import Row, batch_of

RANKED_ROWS = 32
JUDGED_ROWS = 64
JUDGED_LABELS = 256
"""Rows that tell the error of one layer, that judge a set of layers, and that judge it by labels."""
_MARGIN = 0.8
"""Share of the allowed drop that may be used up here: the gate sees other samples."""

Run = Callable[[dict[str, Array]], Array]
"""A batch, input name to array, to the compared output."""
Subject = bytes | Path | Run
"""What is judged: an ONNX graph, serialised or as a file, or what runs another library's model."""


class Judge:
    """Runs models on calibration rows, one by one. The original is told once, by `original`."""

    def __init__(self, goals: Goals, rows: Sequence[Row], labels: Sequence[str], head: str, output: str) -> None:
        self._goals, self._rows = goals, rows
        self.output = output
        self._labels, self._head_name = labels, head
        self._head: Head | None = None
        self._own: OwnMetric | None = None
        self._wanted: list[Array] = []
        self._agreement = Agreement(samples=0, finite=True)

    def original(self, subject: Subject) -> None:
        """Whose answers are the right ones."""
        by_label = self._goals.metric in ("accuracy", "own") and bool(self._labels)
        count = JUDGED_LABELS if by_label else JUDGED_ROWS
        self._wanted = self.answers(subject, count)
        if self._goals.metric == "own":
            self._own = open_metric(self._goals.function, self._labels)
        elif by_label:
            labels = self._labels[: len(self._wanted)]
            self._head = open_head(self._head_name, self._wanted, labels)
        self._agreement = self._compare(self._wanted)

    def answers(self, subject: Subject, count: int) -> list[Array]:
        """The compared output of the first rows, each alone, without the batch axis."""
        run = subject if callable(subject) else _onnx_run(subject, self.output)
        return [run(batch_of([row]))[0, ...] for row in self._rows[:count]]

    def error(self, subject: Subject) -> float:
        """Mean distance of the answers from the original's, as a share of their length; infinite for NaN."""
        found = self.answers(subject, RANKED_ROWS)
        shares = [
            float(np.linalg.norm((a - b).reshape(-1)) / (np.linalg.norm(a.reshape(-1)) or 1.0))
            for a, b in zip(self._wanted, found, strict=False)
        ]
        mean = float(np.mean(shares))
        return mean if np.isfinite(mean) else float(np.finfo(np.float32).max)

    def holds(self, subject: Subject) -> bool:
        """Whether the gate's metric would hold here, with some margin."""
        found = self._compare(self.answers(subject, len(self._wanted)))
        drop = drop_of(self._goals, self._agreement, found)
        near = drop is not None and drop <= _MARGIN * self._goals.max_drop
        return found.finite and near and check_same_model(self._goals, found) is None

    def _compare(self, found: Sequence[Array]) -> Agreement:
        agreement = compare(self._wanted, found, self._labels[: len(found)], self._head)
        return agreement if self._own is None else self._own.added(agreement, found)


def _onnx_run(graph: bytes | Path, output: str) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph if isinstance(graph, bytes) else str(graph), options)

    def run(batch: dict[str, Array]) -> Array:
        return np.asarray(session.run([output], batch)[0])

    return run
