"""The figures of the report, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.distill.lessons import target

from forebay.distill.measures import (
    accuracy,
    agreement,
    by_class,
    calibration_error,
    constant_agreement,
    disagreements,
)
from forebay.distill.run import wilson_low
from forebay.distill.stopping import Stopping


def test_calibration_error_is_that_of_guo() -> None:
    # Two bins of fifteen: three rows at 0.9, of which two are right; one row at 0.6, which is wrong.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 1])
    expected = 3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * abs(0.0 - 0.6)
    assert calibration_error(probabilities, labels) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge() -> None:
    # 0.5 and 0.6 in two bins: 0.5 is in the lower one, by itself.
    probabilities = np.array([[0.5, 0.5], [0.4, 0.6]])
    expected = 1 / 2 * abs(1.0 - 0.5) + 1 / 2 * abs(0.0 - 0.6)
    assert calibration_error(probabilities, np.array([0, 0]), bins=2) == pytest.approx(expected)


def test_a_model_that_is_sure_and_right_is_calibrated() -> None:
    assert calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_agreement_is_of_classes_vectors_or_numbers() -> None:
    teacher = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    student = np.array([[0.4, 0.6], [0.3, 0.7], [0.1, 0.9], [0.9, 0.1]])
    assert agreement(target("probabilities", 2), teacher, student) == 0.75
    assert agreement(target("vectors", 2), np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [1.0, 1.0]])) == (
        pytest.approx((1 + 1 / np.sqrt(2)) / 2)
    )
    numbers = np.array([[1.0], [2.0], [3.0]])
    assert agreement(target("numbers", 1), numbers, numbers) == 1.0
    assert agreement(target("numbers", 1), numbers, np.full((3, 1), 2.0)) == pytest.approx(0.0)


def test_of_several_numbers_the_worst_counts() -> None:
    teacher = np.array([[1.0, 1e4], [2.0, 3e4], [3.0, 2e4]])
    student = teacher * np.array([-1.0, 1.0])
    assert agreement(target("numbers", 2), teacher, student) < 0
    constant = np.array([[1.0, 7.0], [2.0, 7.0]])
    assert agreement(target("numbers", 2), constant, constant + 1e-9) == pytest.approx(1.0)


def test_a_blind_model_of_vectors_answers_the_direction_of_most() -> None:
    teacher = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1000.0]])
    assert constant_agreement(target("vectors", 2), teacher) > 0.7


def test_what_a_blind_model_would_reach_is_known() -> None:
    teacher = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    assert constant_agreement(target("probabilities", 2), teacher) == 0.75
    assert constant_agreement(target("numbers", 1), np.array([[1.0], [5.0]])) == pytest.approx(0.0)


def test_each_class_tells_what_the_student_loses() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    teacher = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    student = np.eye(2)[[0, 0, 1, 1, 1, 1]]
    assert accuracy(teacher, labels) == pytest.approx(5 / 6)
    first, second = by_class(target("logits", 2), teacher, student, labels)
    assert (first.name, first.rows, first.teacher, first.student, first.drop) == ("0", 4, 0.75, 0.5, 0.25)
    assert (second.rows, second.drop) == (2, 0.0)
    # Without labels a class is what the teacher says, of which it finds all.
    first, second = by_class(target("logits", 2), teacher, student, None)
    assert (first.rows, first.teacher) == (3, 1.0)
    assert first.student == pytest.approx(2 / 3)


def test_disagreements_come_with_their_text_the_widest_first() -> None:
    of = target("probabilities", 2)
    teacher = np.array([[0.9, 0.1], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5]])
    student = np.array([[0.1, 0.9], [0.4, 0.6], [0.6, 0.4], [0.5, 0.5]])
    found = disagreements(of, teacher, student, np.array([0, 1, 0, 0]), ["far", "near", "same class", "equal"])
    assert [one.shown for one in found] == ["far", "near"]
    assert (found[0].teacher_class, found[0].student_class, found[0].label) == ("0", "1", "0")
    assert found[0].gap == pytest.approx(0.8)


def test_the_interval_is_wilsons() -> None:
    assert wilson_low(0.9, 100) == pytest.approx(0.8256, abs=1e-3)
    assert wilson_low(1.0, 10) == pytest.approx(0.7225, abs=1e-3)
    assert wilson_low(0.0, 10) == 0.0


def test_training_stops_after_so_many_epochs_without_a_better_one() -> None:
    stopping = Stopping(patience=2)
    seen = []
    for epoch, agreed in enumerate((0.5, 0.7, 0.7, 0.6, 0.9), 1):
        seen.append(stopping.seen(epoch, agreed, loss=1.0))
        if stopping.done:
            break
    assert (seen, stopping.best_epoch) == ([True, True, False, False], 2)


def test_of_epochs_that_agree_alike_the_one_with_less_loss_is_kept() -> None:
    stopping = Stopping(patience=2)
    assert [stopping.seen(epoch, 0.9, loss) for epoch, loss in ((1, 0.5), (2, 0.4), (3, 0.45))] == [True, True, False]
    assert (stopping.best_epoch, stopping.done) == (2, False)


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    stopping = Stopping(patience=1)
    assert not stopping.seen(1, 0.9, float("nan"))
    assert not stopping.seen(2, float("nan"), 0.1)
    assert (stopping.best_epoch, stopping.done) == (0, True)
