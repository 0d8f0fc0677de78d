from __future__ import annotations

import pytest

from forebay.bench.recording import Recording


def recorded(rows: list[tuple[float, float, float, int]], mode: str = "open") -> Recording:
    """Rows of (intended, sent, finished, status), in seconds."""
    recording = Recording(mode)
    for intended, sent, finished, status in rows:
        recording.finish(recording.add(intended, sent), finished, status)
    return recording


def test_each_outcome_is_counted_once() -> None:
    recording = recorded(
        [
            (0.0, 0.0, 0.05, 200),
            (0.1, 0.1, 0.25, 200),
            (0.2, 0.2, 0.202, 503),
            (0.3, 0.3, 0.4, 504),
            (0.4, 0.4, 0.5, 500),
        ]
    )
    recording.add(0.5, 0.5)
    result = recording.summarise(1.0, slo_ms=100)
    assert (result.in_slo, result.late, result.refused, result.deadline, result.errors) == (1, 1, 1, 1, 2)
    assert result.sent == 6
    assert result.goodput_per_s == 1
    assert result.throughput_per_s == 2
    assert result.statuses == {"unanswered": 1, "200": 2, "500": 1, "503": 1, "504": 1}
    assert result.refusal_ms is not None
    assert result.refusal_ms.p99 == pytest.approx(2.0)


def test_latency_counts_from_the_intended_instant() -> None:
    recording = recorded([(0.0, 0.03, 0.08, 200)])
    result = recording.summarise(1.0, slo_ms=60)
    assert result.latency_ms is not None
    assert result.latency_ms.p50 == pytest.approx(80)
    assert result.late == 1


def test_a_late_generator_voids_the_run_and_says_so() -> None:
    recording = recorded([(0.0, 0.02, 0.03, 200)])
    assert "20.0 ms is above the bound of 5.0 ms" in recording.summarise(1.0).void
    assert recording.summarise(1.0, late_bound_ms=25).void == ""


def test_a_closed_loop_has_no_lateness() -> None:
    result = recorded([(0.0, 0.0, 0.03, 200)], "closed").summarise(1.0)
    assert result.lateness_ms is None
    assert result.void == ""


def test_requests_before_the_skip_do_not_count_but_their_late_answers_are_throughput() -> None:
    recording = recorded([(0.4, 0.4, 0.6, 200), (0.6, 0.6, 0.7, 200), (0.9, 0.9, 1.2, 200)])
    result = recording.summarise(1.0, skip_s=0.5)
    assert result.sent == 2
    assert result.in_slo == 2
    # Arrived between 0.5 and 1.0 s: the first two.
    assert result.throughput_per_s == 4


def test_a_wrong_answer_is_an_error_and_not_goodput() -> None:
    recording = recorded([(0.0, 0.0, 0.01, 200), (0.1, 0.1, 0.11, 200)])
    recording.check(0, True)
    recording.check(1, False)
    result = recording.summarise(1.0, slo_ms=100)
    assert (result.in_slo, result.wrong, result.errors, result.checked) == (1, 1, 1, 2)


def test_an_empty_run_is_void() -> None:
    assert "nothing was sent" in Recording("open").summarise(1.0).void
