"""Whether two forms say the same, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.agreement.compare import Judge, is_one_number, same_rows


@pytest.mark.parametrize("judge", ["probabilities", "logits"])
def test_classes_are_compared_and_not_how_sure_they_are(judge: Judge) -> None:
    one, other = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.6, 0.4], [0.4, 0.6]])
    assert same_rows(one, other, judge, 0.99).tolist() == [True, False]


def test_vectors_are_compared_by_their_direction() -> None:
    one = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    other = np.array([[3.0, 0.1], [1.0, 1.0], [0.1, 0.0]])
    assert same_rows(one, other, "vectors", 0.99).tolist() == [True, False, False]


def test_two_vectors_of_zeros_are_the_same() -> None:
    assert same_rows(np.zeros((2, 3)), np.zeros((2, 3)), "vectors", 0.99).tolist() == [True, True]


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_single_numbers_are_compared_by_their_difference(shape: tuple[int, ...]) -> None:
    one, other = np.array([12.0, 250.0, 3000.0, 0.0]), np.array([1.0, 251.0, 2.0, np.inf])
    assert same_rows(one.reshape(shape), other.reshape(shape), "numbers", 0.99, 1.5).tolist() == [
        *(False, True, False, False)
    ]


def test_one_number_a_row_is_no_vector() -> None:
    assert [is_one_number(np.ones(shape)) for shape in ((3,), (3, 1), (3, 2), (0, 1))] == [True, True, False, False]


def test_other_shapes_are_not_the_same() -> None:
    assert same_rows(np.ones((2, 3)), np.ones((2, 4)), "vectors", 0.99).tolist() == [False, False]
