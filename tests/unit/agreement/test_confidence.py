"""What an output says of how sure a model is: probabilities and logits, of two classes or of many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forebay.agreement.confidence import Form, classes_of, confidence_of, form_of
from forebay.core.tensors import Array


def table(*rows: object, dtype: Any = np.float32) -> Array:
    return np.array(rows, dtype)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (table([0.2, 0.8], [1.0, 0.0]), "probabilities"),
        (table([0.2, 0.81], dtype=np.float16), "probabilities"),
        (table([0.2, 0.9]), "logits"),
        (table([-1.0, 2.0]), "logits"),
        (table(0.2, 0.9), "probabilities"),
        (table([0.2], [0.9]), "probabilities"),
        (table(-3.0, 0.9), "logits"),
        (table([1, 0], dtype=np.int64), None),
        (table([[0.5, 0.5]]), None),
        (table([np.nan, 1.0]), None),
        (np.empty((0, 2), np.float32), None),
        (np.empty((2, 0), np.float32), None),
    ],
)
def test_the_form_is_told_by_the_values(values: Array, form: str | None) -> None:
    assert form_of(values) == form


def test_of_probabilities_it_is_that_of_the_class_chosen() -> None:
    values = table([0.2, 0.5, 0.3], [0.1, 0.1, 0.8])
    assert classes_of(values, "probabilities").tolist() == [1, 2]
    assert confidence_of(values, "probabilities") == pytest.approx([0.5, 0.8])


def test_of_logits_it_is_the_softmax() -> None:
    values = table([1.0, 3.0], [1e4, -1e4])
    assert classes_of(values, "logits").tolist() == [1, 0]
    assert confidence_of(values, "logits") == pytest.approx([1 / (1 + np.exp(-2.0)), 1.0])


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_number_a_row_is_the_second_of_two_classes(shape: tuple[int, ...]) -> None:
    probabilities, logits = table(0.1, 0.5, 0.7).reshape(shape), table(-2.0, 0.0, 3.0).reshape(shape)
    assert classes_of(probabilities, "probabilities").tolist() == [0, 1, 1]
    assert confidence_of(probabilities, "probabilities") == pytest.approx([0.9, 0.5, 0.7])
    assert classes_of(logits, "logits").tolist() == [0, 1, 1]
    assert confidence_of(logits, "logits") == pytest.approx(1 / (1 + np.exp([-2.0, 0.0, -3.0])))


@pytest.mark.parametrize("form", ["probabilities", "logits"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nobody_is_sure_of_what_is_no_number(form: Form, bad: float) -> None:
    assert confidence_of(table([bad, 0.5], [0.0, 1.0]), form)[0] == 0.0


def test_what_is_no_probability_is_not_trusted() -> None:
    assert confidence_of(table([7.0, 0.0]), "probabilities").tolist() == [0.0]
