"""What a candidate has to hold before it may be served. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.optimize.report import Agreement, CandidateReport, Goals, Reason

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


def check_answers(goals: Goals, original: Agreement, candidate: Agreement) -> Verdict | None:
    """By its answers alone."""
    if not candidate.finite:
        return "not_finite", "answers hold NaN or infinity"
    drop = drop_of(goals, original, candidate)
    if drop is None:
        return "disagrees", f"the metric {goals.metric} does not apply to its answers"
    # Sums of floats: a drop of exactly what is allowed passes.
    if drop > goals.max_drop + 1e-12:
        return "disagrees", f"{described(goals, candidate)}; a drop of {drop:.4g} where {goals.max_drop:.4g} is allowed"
    return None


def check(goals: Goals, original: CandidateReport, candidate: CandidateReport) -> Verdict | None:
    """Everything that was measured, the graver first. None: it passes."""
    if candidate.reason is not None:
        return candidate.reason, candidate.detail
    assert candidate.agreement is not None
    assert original.agreement is not None
    verdict = check_answers(goals, original.agreement, candidate.agreement)
    if verdict is not None:
        return verdict
    invariance = candidate.invariance
    if goals.batch_invariance and invariance is not None and not invariance.holds:
        near = f", cosine {invariance.min_cosine:.5f}" if invariance.min_cosine is not None else ""
        return (
            "batch_variant",
            f"a sample alone and in a batch differ by up to {invariance.max_error:.2g}{near}; "
            f"{invariance.tolerance:.2g} is allowed",
        )
    speed = candidate.speed
    if speed is not None and goals.slo_ms is not None and speed.rows_per_s == 0.0:
        fastest = min(batch.batch_ms for batch in speed.batches)
        return "misses_slo", f"its quickest batch takes {fastest:.3g} ms, the SLO is {goals.slo_ms:g} ms"
    if speed is not None and speed.speedup < goals.min_speedup:
        return "slower", f"{speed.speedup:.2f} of the original's speed; {goals.min_speedup:.2f} is asked for"
    return None


def described(goals: Goals, agreement: Agreement) -> str:
    """The goal's metric of one candidate, for a person."""
    match goals.metric:
        case "cosine" if agreement.mean_cosine is not None:
            return f"mean cosine {agreement.mean_cosine:.5f}"
        case "top1" if agreement.top1 is not None:
            return f"same highest class in {agreement.top1:.2%}"
        case "max_error" if agreement.max_error is not None:
            return f"largest error {agreement.max_error:.3g}"
        case "accuracy" if agreement.accuracy is not None:
            return f"accuracy {agreement.accuracy:.2%}"
    return "-"


def choose(candidates: Sequence[CandidateReport]) -> CandidateReport | None:
    """The fastest of those that passed."""
    passed = [one for one in candidates if one.reason is None and one.speed is not None]
    return max(passed, key=lambda one: one.speed.speedup if one.speed else 0.0, default=None)
