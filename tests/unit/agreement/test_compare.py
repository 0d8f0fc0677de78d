"""Whether two forms say the same, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.agreement.compare import Judge, same_rows


@pytest.mark.parametrize("judge", ["probabilities", "logits"])
def test_classes_are_compared_and_not_how_sure_they_are(judge: Judge) -> None:
    one, other = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.6, 0.4], [0.4, 0.6]])
    assert same_rows(one, other, judge, 0.99).tolist() == [True, False]


def test_vectors_are_compared_by_their_direction() -> None:
    one = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    other = np.array([[3.0, 0.1], [1.0, 1.0], [0.0, 0.0]])
    assert same_rows(one, other, "vectors", 0.99).tolist() == [True, False, False]


def test_other_shapes_are_not_the_same() -> None:
    assert same_rows(np.ones((2, 3)), np.ones((2, 4)), "vectors", 0.99).tolist() == [False, False]
