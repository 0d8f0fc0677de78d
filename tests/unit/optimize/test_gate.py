"""What the gate lets pass: pure decisions on measured numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.errors import SetupError
from forebay.optimize import agreement, gate, heads, invariance, speed
from forebay.optimize.exclusion import exclude, rank
from forebay.optimize.goals import Asked, goals_for
from forebay.optimize.report import Agreement, BatchSpeed, CandidateReport, Goals, Invariance, OtherOutput, Speed


def measured(name: str = "one", **changes: Any) -> CandidateReport:
    """A candidate at which nothing is wrong, but for the changes."""
    batch = BatchSpeed(rows=1, batch_ms=5.0, rows_per_s=200.0, ratio=2.0)
    facts: dict[str, Any] = {
        "agreement": Agreement(
            samples=10, finite=True, mean_cosine=0.9995, min_cosine=0.99, top1=1.0, max_error=0.01, accuracy=0.9
        ),
        "invariance": Invariance(compared=10, max_error=1e-7, min_cosine=1.0, tolerance=1e-5, holds=True),
        "speed": Speed(batches=[batch], rows_per_s=200.0, speedup=2.0),
        **changes,
    }
    return CandidateReport(name=name, meaning="", runtime="onnx", **facts)


ORIGINAL = measured(
    agreement=Agreement(samples=10, finite=True, mean_cosine=1.0, top1=1.0, max_error=0.0, accuracy=0.91)
)
VARIANT = Invariance(compared=10, max_error=0.1, min_cosine=0.98, tolerance=1e-5, holds=False)


def goals(**changes: Any) -> Goals:
    return Goals(**{"metric": "cosine", "max_drop": 0.001, **changes})


def reason(candidate: CandidateReport, **changes: Any) -> str | None:
    verdict = gate.check(goals(**changes), ORIGINAL, candidate)
    return verdict[0] if verdict else None


def test_what_holds_everything_passes() -> None:
    assert reason(measured()) is None


@pytest.mark.parametrize(
    ("metric", "max_drop", "verdict"),
    [
        ("cosine", 0.0005, None),
        ("cosine", 0.0004, "disagrees"),
        ("top1", 0.0, None),
        ("max_error", 0.01, None),
        ("max_error", 0.009, "disagrees"),
        ("accuracy", 0.01, None),
        ("accuracy", 0.009, "disagrees"),
    ],
)
def test_a_drop_of_just_what_is_allowed_passes(metric: str, max_drop: float, verdict: str | None) -> None:
    assert reason(measured(), metric=metric, max_drop=max_drop) == verdict


def test_the_graver_fault_is_told_first() -> None:
    slow = Speed(batches=[], rows_per_s=50.0, speedup=0.5)
    assert reason(measured(speed=slow)) == "slower"
    assert reason(measured(speed=slow, invariance=VARIANT)) == "batch_variant"
    bad = Agreement(samples=10, finite=True, mean_cosine=0.3)
    assert reason(measured(speed=slow, invariance=VARIANT, agreement=bad)) == "disagrees"
    assert reason(measured(speed=slow, agreement=Agreement(samples=10, finite=False))) == "not_finite"


def test_what_points_the_right_way_and_has_another_length_disagrees() -> None:
    vectors = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]
    found = agreement.compare(vectors, [1.2 * vector for vector in vectors], [], None)
    assert found.mean_cosine == pytest.approx(1.0)
    assert reason(measured(agreement=found)) == "disagrees"
    assert reason(measured(agreement=found), max_drop=0.03) is None
    assert reason(measured(agreement=found), metric="max_error", max_drop=1.0) is None


def test_the_same_classes_with_other_numbers_are_another_model() -> None:
    for distance, verdict in ((0.1, None), (0.15, "disagrees"), (float("nan"), "disagrees")):
        found = Agreement(samples=10, finite=True, top1=1.0, accuracy=0.91, distance=distance)
        assert reason(measured(agreement=found), metric="top1", max_drop=0.01) == verdict
        assert reason(measured(agreement=found), metric="accuracy", max_drop=0.005) == verdict
    assert reason(measured(agreement=found), metric="max_error", max_drop=1.0) == "disagrees"  # no largest error


def test_a_sample_near_zero_that_turns_is_not_yet_another_model() -> None:
    original = [np.array([-0.1, 0.1]), np.array([4.0, -4.0]), np.array([-3.0, 3.0])]
    turned = [np.array([0.1, -0.1]), *original[1:]]
    assert agreement.compare(original, turned, [], None).distance == pytest.approx(0.04, rel=0.01)


def test_a_drop_that_is_no_number_does_not_pass() -> None:
    unknown = Agreement(samples=10, finite=True, mean_cosine=float("nan"))
    assert reason(measured(agreement=unknown)) == "disagrees"


def test_classes_are_told_for_every_position_of_an_answer() -> None:
    tokens = [np.array([[0.0, 9.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])]
    wrong = [np.array([[0.0, 9.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])]
    assert agreement.compare(tokens, wrong, [], None).top1 == 0.25


def test_another_output_must_still_be_the_same_output() -> None:
    def label(same: float) -> CandidateReport:
        other = OtherOutput(
            name="label", metric="top1", max_drop=0.1, agreement=Agreement(samples=10, finite=True, top1=same)
        )
        return measured(others=[other])

    for same, verdict in ((0.95, None), (0.5, "disagrees")):
        found = gate.check(goals(), label(1.0), label(same))
        assert (found[0] if found else None) == verdict
        assert found is None or "output 'label': " in found[1]


def test_batch_variance_counts_only_where_it_is_required() -> None:
    assert reason(measured(invariance=VARIANT), batch_invariance=False) is None


def test_an_accuracy_that_rose_passes_and_one_that_cannot_be_told_does_not() -> None:
    better = Agreement(samples=10, finite=True, accuracy=0.95)
    assert reason(measured(agreement=better), metric="accuracy", max_drop=0.0) is None
    unknown = Agreement(samples=10, finite=True)
    assert reason(measured(agreement=unknown), metric="accuracy") == "disagrees"


def test_the_fastest_that_passed_comes_first() -> None:
    quick = measured("quick", speed=Speed(batches=[], rows_per_s=900.0, speedup=9.0), reason="disagrees")
    good = measured("good", speed=Speed(batches=[], rows_per_s=150.0, speedup=1.5))
    assert [one.name for one in gate.ranked([quick, good, measured("better")])] == ["better", "good"]
    assert gate.ranked([quick]) == []


ERRORS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0.001, 10), min_size=2, max_size=20)


@given(ERRORS, st.floats(0.0, 20.0))
def test_exclusion_leaves_out_the_worst_layers_and_not_one_more_than_needed(
    errors: dict[str, float], allowed: float
) -> None:
    def harm(excluded: list[str]) -> float:
        return sum(error for name, error in errors.items() if name not in excluded)

    ranking = rank(errors)
    found = exclude(ranking, lambda excluded: harm(list(excluded)) <= allowed)
    assert found.excluded == ranking[: len(found.excluded)]
    assert found.tried <= 2 + int(np.log2(len(errors))) + 1
    if found.holds:
        assert harm(found.excluded) <= allowed
        assert not found.excluded or harm(found.excluded[:-1]) > allowed
    else:
        assert errors[ranking[-1]] > allowed  # the harmless one alone is too much


def test_a_sample_that_answers_differently_in_company_is_found_wherever_it_sits() -> None:
    batches = invariance.company(10, 4, seed=0)
    sizes = {len(batch) for batch in batches}
    assert sizes == {2, 3, 4}
    for size in sizes:
        assert {index for batch in batches if len(batch) == size for index in batch} == set(range(10))
    alone = [np.array([float(i), 1.0]) for i in range(10)]
    right = [np.stack([alone[i] for i in batch]) for batch in batches]
    assert invariance.judge(alone, batches, right, 1e-6).holds
    place = max(k for k, batch in enumerate(batches) if len(batch) == 4)
    wrong = [answer.copy() for answer in right]
    wrong[place][3, 1] += 0.5
    judged = invariance.judge(alone, batches, wrong, 1e-6)
    assert (judged.holds, judged.max_error) == (False, 0.5)


@pytest.mark.parametrize("samples", [8, 30, 64])
def test_every_size_is_tried_though_there_are_fewer_samples(samples: int) -> None:
    sizes = {len(batch) for batch in invariance.company(samples, 256, seed=1)}
    assert {2, 3, 5, 7, 12, 24, 32, 64, 256} <= sizes


def test_nan_in_a_batch_is_found_though_batches_may_differ() -> None:
    alone = [np.ones(3), np.ones(3)]
    judged = invariance.judge(alone, [[0, 1]], [np.array([[1, 1, 1], [1, np.nan, 1]])], 1.0)
    assert not judged.finite
    assert reason(measured(invariance=judged), batch_invariance=False) == "not_finite"


def test_padding_is_not_part_of_an_answer() -> None:
    alone = [np.ones((2, 3)), np.ones((4, 3))]
    padded = np.ones((2, 4, 3))
    padded[0, 2:] = 9.0
    assert invariance.judge(alone, [[0, 1]], [padded], 0.0).holds


def test_speed_is_by_the_best_batch_size_within_the_slo() -> None:
    original = {1: [100.0, 110.0, 90.0], 8: [200.0, 200.0, 200.0]}
    candidate = {1: [150.0, 150.0, 150.0], 8: [500.0, 300.0, 400.0]}
    free = speed.summarise(original, candidate, None)
    assert (free.rows_per_s, free.speedup) == (400.0, 2.0)
    assert [batch.ratio for batch in free.batches] == [1.5, 2.0]
    bound = speed.summarise(original, candidate, 10.0)  # 8 rows take 20 ms and 40 ms
    assert (bound.rows_per_s, bound.speedup) == (150.0, 1.5)
    assert speed.summarise(original, candidate, 1.0).rows_per_s == 0.0


def test_timed_batches_hold_every_sample_beside_others_of_like_length() -> None:
    lengths = [5, 50, 6, 51, 7, 52, 8, 53]
    batches = speed.plan(lengths, (1, 4, 16))
    assert set(batches) == {1, 4}
    assert sorted(index for batch in batches[4] for index in batch) == list(range(8))
    assert [max(lengths[i] for i in batch) for batch in batches[4]] == [8, 53]


def test_a_size_that_can_afford_few_batches_sees_short_and_long_ones() -> None:
    batches = [[index] for index in range(100)]
    assert speed.spread(batches, 4) == [[12], [37], [62], [87]]
    assert speed.spread(batches[:2], 5) == [[0], [1], [0], [1], [0]]


def test_large_batches_are_timed_where_they_are_quick() -> None:
    assert speed.sizes_for(speed.SIZES, 1e-4, 0.2) == (*speed.SIZES, 64, 128, 256)
    assert speed.sizes_for(speed.SIZES, 2e-3, 0.2) == (*speed.SIZES, 64)
    assert speed.sizes_for(speed.SIZES, 0.012, 0.2) == speed.SIZES
    assert speed.sizes_for((1, 8), 1e-6, 0.2) == (1, 8)


def test_a_batch_that_takes_a_whole_round_is_not_run_to_find_out_how_many_fit() -> None:
    ran: dict[str, list[int]] = {"slow": [], "quick": []}

    def runs(who: str, seconds: float) -> speed.Run:
        def run(batches: Sequence[Sequence[int]]) -> list[float]:
            ran[who].append(len(batches))
            return [seconds for _ in batches]

        return run

    batches = {256: [list(range(start, start + 256)) for start in range(0, 2560, 256)]}
    of_slow, of_quick = speed.measure(runs("slow", 5.0), runs("quick", 0.01), batches, 2, 0.2)
    assert of_slow == {256: [pytest.approx(51.2)] * 2}
    assert of_quick == {256: [pytest.approx(25600.0)] * 2}
    assert ran["slow"] == [1] * 4, "twice to look, and once a round"
    of_slow, _ = speed.measure(runs("slow", 0.05), runs("quick", 0.01), batches, 1, 0.2)
    assert ran["slow"][-1] == 4, "as many as fit"


def test_who_takes_longer_for_new_rows_than_for_those_it_has_seen_remembers() -> None:
    seen: set[int] = set()

    def honest(batches: Sequence[Sequence[int]]) -> list[float]:
        return [1.0 + 0.1 * len(seen) for _ in batches]

    def remembers(batches: Sequence[Sequence[int]]) -> list[float]:
        took = []
        for batch in batches:
            took.append(0.1 if set(batch) <= seen else 2.0)
            seen.update(batch)
        return took

    pairs = [([0], [10]), ([0], [11]), ([1], [12])]
    assert speed.slowed_by_new(honest, remembers, pairs) == pytest.approx(20.0)
    assert speed.slowed_by_new(honest, honest, pairs) == pytest.approx(1.0)


def test_a_machine_that_slows_down_between_sizes_does_not_change_the_ratio() -> None:
    original = {1: [100.0, 50.0, 100.0], 8: [200.0, 100.0, 60.0]}
    candidate = {1: [200.0, 100.0, 200.0], 8: [400.0, 200.0, 120.0]}
    assert speed.summarise(original, candidate, None).speedup == 2.0


def test_nan_zero_and_labels_are_compared_as_a_person_would() -> None:
    zero = np.zeros(3)
    assert agreement.cosine(zero, zero) == 1.0
    assert agreement.cosine(zero, np.ones(3)) == 0.0
    assert agreement.sample_error(np.array([1.0]), np.array([np.nan])) == np.inf
    texts = [np.array([b"a"], object), np.array([b"b"], object)]
    assert agreement.compare(texts, [texts[0], texts[0]], [], None).top1 == 0.5


def test_a_head_is_fitted_once_and_then_judges_everyone() -> None:
    random = np.random.default_rng(0)
    centres = {"cat": random.standard_normal(8), "dog": random.standard_normal(8)}
    labels = ["cat", "dog"] * 40
    outputs = [centres[label] + 0.1 * random.standard_normal(8) for label in labels]
    head = heads.choose_head("auto", outputs, labels)
    assert head.name == "ridge"
    assert head.accuracy(outputs, labels) == 1.0
    assert head.accuracy([-output for output in outputs], labels) < 0.2
    logits = [np.array([0.0, 1.0, 0.2]), np.array([3.0, 1.0, 0.2])]
    assert heads.choose_head("auto", logits, ["1", "0"]).accuracy(logits, ["1", "2"]) == 0.5
    with pytest.raises(SetupError, match="same label"):
        heads.choose_head("auto", logits, ["1", "1"])


def test_few_samples_of_many_classes_are_judged_by_the_largest_value() -> None:
    random = np.random.default_rng(0)
    labels = [str(label) for label in random.integers(0, 1000, size=256)]
    logits = [random.standard_normal(1000) for _ in labels]
    for number, label in enumerate(labels):
        logits[number][int(label)] += 8.0 * (number % 3 > 0)
    assert heads.choose_head("auto", logits, labels).name == "argmax"
    assert heads.choose_head("auto", logits, [str(int(label) % 2) for label in labels]).name == "ridge"
    dominant = [value + 20.0 * (np.arange(1000) == 1) for value in logits]
    assert heads.choose_head("auto", dominant, [str(int(label) % 2) for label in labels]).name == "ridge"
    with pytest.raises(SetupError, match=r"2\d\d labels cannot be fitted on 256 calibration samples.*--head argmax"):
        heads.choose_head("auto", logits, [f"class {label}" for label in labels])


def test_one_probability_is_a_label_from_a_half_on() -> None:
    outputs = [np.array([value], np.float32) for value in (0.1, 0.5, 0.9, 1.0)]
    head = heads.choose_head("auto", outputs, ["0", "1", "1", "1"])
    assert (head.name, head.accuracy(outputs, ["0", "1", "1", "0"])) == ("threshold", 0.75)
    whole = [np.array(value, np.float32) for value in (0.0, 1.0)]
    assert heads.choose_head("auto", whole, ["0", "1"]).accuracy(whole, ["0", "1"]) == 1.0
    with pytest.raises(SetupError, match=r"such as 0\.1\d*, and never the label \(bad, good\).*--head threshold"):
        heads.choose_head("auto", outputs, ["bad", "good", "good", "good"])
    with pytest.raises(SetupError, match=r"such as -3, .* --metric max_error"):
        heads.choose_head("auto", [np.array([-3.0]), np.array([0.7])], ["0", "1"])
    with pytest.raises(SetupError, match=r"--head threshold is for .* from 0 to 1"):
        heads.choose_head("threshold", [np.ones(3), np.zeros(3)], ["0", "1"])
    with pytest.raises(SetupError, match=r"such as cat, and never the label \(0, 1\); write labels as the model"):
        heads.choose_head("auto", [np.array(["cat"], object), np.array(["dog"], object)], ["0", "1"])


def test_labels_go_with_one_row_of_numbers_a_sample() -> None:
    for outputs in ([np.ones((3, 4)), np.ones((3, 4))], [np.ones(3), np.ones(5)]):
        with pytest.raises(SetupError, match="one row of numbers for each sample"):
            heads.choose_head("auto", outputs, ["a", "b"])


def test_the_metric_suits_the_output_unless_one_is_asked_for() -> None:
    vectors, number, text = [np.ones(4, np.float32)], [np.ones((), np.float32)], [np.array([b"a"], object)]
    assert goals_for(Asked(), "embedding", vectors, labelled=False).metric == "cosine"
    assert goals_for(Asked(), "logits", vectors, labelled=False).metric == "top1"
    assert goals_for(Asked(), "embedding", vectors, labelled=True).metric == "accuracy"
    assert goals_for(Asked(), "label", text, labelled=False).metric == "top1"
    single = goals_for(Asked(), "prediction", [200 * number[0]], labelled=False)
    assert (single.metric, single.max_drop) == ("max_error", 2.0)
    for asked, answers, told in (
        ("accuracy", vectors, "labels"),
        ("cosine", number, "several"),
        ("max_error", text, "texts"),
    ):
        with pytest.raises(SetupError, match=told):
            goals_for(Asked(metric=asked), "out", answers, labelled=False)  # type: ignore[arg-type]
