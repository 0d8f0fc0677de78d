"""Which output holds a number for each class, and what only looks so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebay.agreement.confidence import Form
from forebay.cli.answers import find_class_output, no_classes
from forebay.cli.sample_rows import SampleRows
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Samples

PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
SEVERAL = np.array([[0.9, 0.8], [0.1, 0.3]], np.float32)
VECTORS = np.array([[-1.5, 2.0], [3.0, 0.1]], np.float32)
PRICES = np.array([[250.0], [12.0]], np.float32)
SHARES = np.array([[0.7], [0.6]], np.float32)


def found(wanted: str | None, **answers: Array) -> tuple[str, Form] | None:
    outputs = tuple(TensorSpec(name, "FP32", values.shape[1:]) for name, values in answers.items())
    rows = SampleRows(Path("rows.npz"), Samples([], [], [], "", []), [])
    return find_class_output(Signature((), outputs), answers, wanted, rows, "net")


@pytest.mark.parametrize(
    ("name", "values", "form"),
    [
        ("p", PROBABILITIES, "probabilities"),
        ("Logits", VECTORS, "logits"),
        ("class_score", PRICES, "logits"),
        ("prob", SHARES, "probabilities"),
    ],
)
def test_what_sums_to_1_or_is_called_so_holds_classes(name: str, values: Array, form: Form) -> None:
    assert found(None, **{name: values}) == (name, form)


@pytest.mark.parametrize(
    ("name", "values", "form"),
    [
        ("embedding", VECTORS, "logits"),
        ("scores", SEVERAL, "logits"),
        ("variable", PRICES, "logits"),
        ("share", SHARES, "probabilities"),
    ],
)
def test_what_only_has_their_shape_holds_none_unless_it_is_named(name: str, values: Array, form: Form) -> None:
    assert found(None, **{name: values}) is None
    assert found(name, **{name: values}) == (name, form)


def test_it_may_stand_behind_one_that_holds_none() -> None:
    assert found(None, embedding=VECTORS, logits=VECTORS) == ("logits", "logits")


def test_who_finds_none_is_told_how_to_name_one() -> None:
    one = Signature((), (TensorSpec("map", "FP32", (4, 4)), TensorSpec("y", "FP32", (4,))))
    assert no_classes(one, None).message.endswith("if y is one, say so: --output y")
    assert "say so" not in no_classes(one, "map").message
