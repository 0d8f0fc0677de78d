"""What a candidate has to hold before it may be served. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from forebay.optimize.goals import USUAL_DROP
from forebay.optimize.report import Agreement, CandidateReport, Goals, Reason

_ROUNDING = 1e-12
"""Of sums of floats."""

_LOOSER = 10.0
"""So many times the usual drop of a cosine, answers may move where only their classes are the goal: rounding to 8 bits
moves them by a tenth of that to a half, and classifiers of other data are five times as far."""
_OTHER_LABELS = 0.05
"""Share of labels that may change where there is nothing else to compare, though as many are right."""

Verdict = tuple[Reason, str]
"""Why a candidate is rejected."""


def drop_of(goals: Goals, original: Agreement, candidate: Agreement) -> float | None:
    """How much worse the candidate is, in units of `max_drop`. None: the metric does not apply to these outputs."""
    match goals.metric:
        case "cosine":
            return None if candidate.mean_cosine is None else 1.0 - candidate.mean_cosine
        case "top1":
            return None if candidate.top1 is None else 1.0 - candidate.top1
        case "max_error":
            return candidate.max_error
        case "accuracy":
            if original.accuracy is None or candidate.accuracy is None:
                return None
            return original.accuracy - candidate.accuracy
        case "own":
            return None if original.own is None or candidate.own is None else original.own - candidate.own


def check_answers(goals: Goals, original: Agreement, candidate: Agreement) -> Verdict | None:
    """By its answers alone."""
    if not candidate.finite:
        return "not_finite", "answers hold NaN or infinity"
    drop = drop_of(goals, original, candidate)
    if candidate.own_failed:
        return "disagrees", f"the metric {goals.metric_name} {candidate.own_failed} on its answers"
    if drop is None:
        return "disagrees", f"the metric {goals.metric} does not apply to its answers"
    # A drop of exactly what is allowed passes. Not `>`: nothing is known of a drop that is NaN.
    if not drop <= goals.max_drop + _ROUNDING:
        return "disagrees", f"{described(goals, candidate)}; a drop of {drop:.4g} where {goals.max_drop:.4g} is allowed"
    if goals.metric == "cosine" and not (candidate.length_error or 0.0) <= length_allowed(goals.max_drop):
        return (
            "disagrees",
            f"vectors point where the original's do, and are {candidate.length_error:.1%} longer or shorter; "
            f"{length_allowed(goals.max_drop):.1%} is allowed",
        )
    return None


def check_same_model(goals: Goals, candidate: Agreement) -> Verdict | None:
    """Whether these may still be the original's answers, where the goal looks at classes alone: a model that was
    trained on other data may be as accurate.
    """
    if goals.metric not in ("top1", "accuracy"):
        return None
    wider = max(1.0, goals.max_drop / USUAL_DROP[goals.metric])
    if candidate.distance is not None:
        allowed = length_allowed(min(_LOOSER * USUAL_DROP["cosine"] * wider, 0.5))
        if not candidate.distance <= allowed:
            return (
                "disagrees",
                f"{described(goals, candidate)}, but as another model might: answers are {candidate.distance:.1%} away "
                f"from the original's, {allowed:.1%} is allowed; a wider --max-drop allows more",
            )
    elif goals.metric == "accuracy" and candidate.top1 is not None:
        allowed = max(_OTHER_LABELS, goals.max_drop)
        if not 1.0 - candidate.top1 <= allowed + _ROUNDING:
            return (
                "disagrees",
                f"{described(goals, candidate)}, but as another model might: {1.0 - candidate.top1:.1%} of the answers "
                f"are not the original's, {allowed:.1%} is allowed; a --max-drop above that allows more",
            )
    return None


def length_allowed(max_drop: float) -> float:
    """How much vectors may differ in length where `max_drop` of the cosine is allowed: as far as that turns the tip of
    a vector of length 1.
    """
    return math.sqrt(2.0 * (max_drop + _ROUNDING))


def check(goals: Goals, original: CandidateReport, candidate: CandidateReport) -> Verdict | None:
    """Everything that was measured, the graver first. None: it passes."""
    if candidate.reason is not None:
        return candidate.reason, candidate.detail
    assert candidate.agreement is not None
    assert original.agreement is not None
    verdict = (
        check_answers(goals, original.agreement, candidate.agreement)
        or check_same_model(goals, candidate.agreement)
        or _check_others(goals, original, candidate)
    )
    if verdict is not None:
        return verdict
    invariance = candidate.invariance
    if invariance is not None and not invariance.finite:
        return "not_finite", f"{_of(invariance.output)}answers in batches hold NaN or infinity, alone they do not"
    if goals.batch_invariance and invariance is not None and not invariance.holds:
        near = f", cosine {invariance.min_cosine:.5f}" if invariance.min_cosine is not None else ""
        return (
            "batch_variant",
            f"{_of(invariance.output)}a sample alone and in a batch differ by up to {invariance.max_error:.2g}{near}; "
            f"{invariance.tolerance:.2g} is allowed",
        )
    speed = candidate.speed
    if speed is not None and goals.slo_ms is not None and speed.rows_per_s == 0.0:
        fastest = min(batch.batch_ms for batch in speed.batches)
        return "misses_slo", f"its quickest batch takes {fastest:.3g} ms, the SLO is {goals.slo_ms:g} ms"
    if speed is not None and speed.speedup < goals.min_speedup:
        return "slower", f"{speed.speedup:.2f} of the original's speed; {goals.min_speedup:.2f} is asked for"
    return None


def _check_others(goals: Goals, original: CandidateReport, candidate: CandidateReport) -> Verdict | None:
    for mine, theirs in zip(original.others, candidate.others, strict=True):
        own = msgspec.structs.replace(goals, metric=mine.metric, max_drop=mine.max_drop)
        verdict = check_answers(own, mine.agreement, theirs.agreement) or check_same_model(own, theirs.agreement)
        if verdict is not None:
            return verdict[0], f"{_of(mine.name)}{verdict[1]}"
    return None


def _of(output: str) -> str:
    return f"output {output!r}: " if output else ""


def described(goals: Goals, agreement: Agreement) -> str:
    """The goal's metric of one candidate, for a person."""
    match goals.metric:
        case "cosine" if agreement.mean_cosine is not None:
            return f"mean cosine {agreement.mean_cosine:.5f}"
        case "top1" if agreement.top1 is not None:
            return f"same class in {agreement.top1:.2%}"
        case "max_error" if agreement.max_error is not None:
            return f"largest error {agreement.max_error:.3g}"
        case "accuracy" if agreement.accuracy is not None:
            return f"accuracy {agreement.accuracy:.2%}"
        case "own" if agreement.own is not None:
            return f"{goals.metric_name} {agreement.own:.5g}"
    return "-"


def ranked(candidates: Sequence[CandidateReport]) -> list[CandidateReport]:
    """Those that passed, the fastest first."""
    passed = [one for one in candidates if one.reason is None and one.speed is not None]
    return sorted(passed, key=lambda one: -one.speed.speedup if one.speed else 0.0)
