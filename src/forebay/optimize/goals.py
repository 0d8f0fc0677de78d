"""What was asked of a search, and the goals that come of it once the original's answers are known. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize import speed
from forebay.optimize.agreement import scale_of
from forebay.optimize.heads import HeadName
from forebay.optimize.metric import check_own
from forebay.optimize.report import Goals, Metric

_CLASS_OUTPUTS = ("logits", "probabilities")
USUAL_DROP: Mapping[Metric, float] = MappingProxyType({"cosine": 0.001, "top1": 0.01, "accuracy": 0.005})
"""What is allowed where nobody says."""


@dataclass(frozen=True)
class Effort:
    """How long to measure. `round_s`: seconds of the original for each batch size and round."""

    rounds: int = 5
    rounds_rejected: int = 2
    """For candidates that are out by their answers: their speed is shown, but decides nothing."""
    round_s: float = 0.2
    sizes: Sequence[int] = speed.SIZES


@dataclass(frozen=True)
class Asked:
    """What the operator said. None: what suits the model."""

    metric: Metric | None = None
    function: str = ""
    """`module:function` where the metric is the user's own."""
    max_drop: float | None = None
    batch_invariance: bool = True
    batch_tolerance: float = 1e-4
    min_speedup: float = 1.03
    slo_ms: float | None = None
    head: HeadName | Literal["auto"] = "auto"
    output: str | None = None
    threads: int = 1
    effort: Effort = field(default_factory=Effort)


def goals_for(asked: Asked, output: str, answers: Sequence[Array], *, labelled: bool) -> Goals:
    """The goals. Raises `SetupError` for a metric that does not go with these samples or answers.

    With labels the metric is accuracy; without, classes are compared by the highest one, vectors by cosine, single
    numbers by error.
    """
    wide = all(value.size > 1 for value in answers)
    numbers = answers[0].dtype.kind == "f"
    metric: Metric = asked.metric or (
        "accuracy"
        if labelled
        else "top1"
        if not numbers or (wide and output in _CLASS_OUTPUTS)
        else "cosine"
        if wide
        else "max_error"
    )
    if metric == "own":
        check_own(asked.function, asked.max_drop, labelled=labelled)
    if metric == "accuracy" and not labelled:
        raise SetupError("--metric accuracy needs labels in the samples: an array `labels`, or a column `label`")
    if metric == "cosine" and not (wide and numbers):
        raise SetupError(
            f"--metric cosine needs an output of several numbers; {output!r} is none; name one with --output"
        )
    if metric == "max_error" and answers[0].dtype.kind in "OSU":
        raise SetupError(f"--metric max_error needs an output of numbers; {output!r} holds texts; use top1")
    max_drop = asked.max_drop
    if max_drop is None:
        max_drop = USUAL_DROP[metric] if metric != "max_error" else 0.01 * scale_of(answers)
    return Goals(
        metric=metric,
        function=asked.function if metric == "own" else "",
        max_drop=max_drop,
        batch_invariance=asked.batch_invariance,
        batch_tolerance=asked.batch_tolerance,
        min_speedup=asked.min_speedup,
        slo_ms=asked.slo_ms,
    )
