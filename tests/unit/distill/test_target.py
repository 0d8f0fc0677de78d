"""What is learned of a teacher: which output, and how its numbers are meant."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.distill.lessons import target

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.target import Target, Wanted, find_target, finished
from forebay.models.signature import TensorSpec

SHARES = np.array([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]], np.float32)
RAW = np.array([[3.0, -1.0, 0.5], [0.0, 2.0, -4.0]], np.float32)


def found(name: str, values: Array, wanted: Wanted = Wanted(), labels: tuple[str, ...] = ()) -> Target:  # noqa: B008
    spec = TensorSpec(name, "FP32", tuple(values.shape[1:]))
    return find_target([spec], {name: values}, wanted, labels)


def test_shares_that_add_up_to_one_are_probabilities() -> None:
    of = found("y", SHARES)
    assert (of.form, of.width, of.classes) == ("probabilities", 2, ("0", "1"))


def test_a_few_numbers_are_logits_and_a_unit_vector_is_none() -> None:
    assert found("y", RAW).form == "logits"
    unit = RAW / np.linalg.norm(RAW, axis=1, keepdims=True)
    assert (found("y", unit).form, found("y", unit).unit) == ("vectors", True)
    assert found("logits", unit).form == "logits"
    assert found("y", unit, labels=("0", "2")).form == "logits"
    assert found("y", RAW, Wanted(task="vectors")).form == "vectors"


def test_many_numbers_are_an_embedding_unless_labels_say_otherwise() -> None:
    wide = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float32)
    assert found("y", wide).form == "vectors"
    assert found("y", wide, labels=("3", "99")).form == "logits"


def test_one_number_a_row_is_a_quantity() -> None:
    of = found("y", np.array([1.0, 3.0], np.float32))
    assert (of.form, of.scalar, of.mean, of.spread) == ("numbers", True, 2.0, 1.0)
    with pytest.raises(SetupError, match="--task classes: 'y' is one number a row"):
        found("y", np.array([1.0, 3.0], np.float32), Wanted(task="classes"))


def test_an_output_that_is_the_place_of_the_highest_goes_along() -> None:
    specs = [TensorSpec("label", "INT64", ()), TensorSpec("probabilities", "FP32", (2,))]
    answers = {"label": SHARES.argmax(axis=1), "probabilities": SHARES}
    of = find_target(specs, answers, Wanted())
    assert [spec.name for spec in of.outputs] == ["label", "probabilities"]
    answers["label"] = 1 - answers["label"]
    with pytest.raises(SetupError, match=r"also answers label, which does not follow .* --output probabilities"):
        find_target(specs, answers, Wanted())
    assert [spec.name for spec in find_target(specs, answers, Wanted(output="probabilities")).outputs] == [
        "probabilities"
    ]


def test_outputs_that_cannot_be_learned_are_named() -> None:
    grid = [TensorSpec("tokens", "FP32", (-1, 8))]
    with pytest.raises(SetupError, match=r"no output of the teacher is a row of numbers.*tokens FP32\[-1, 8\]"):
        find_target(grid, {"tokens": np.zeros((2, 3, 8), np.float32)}, Wanted())
    with pytest.raises(SetupError, match="--output z: the teacher has no such output; it has y"):
        found("y", RAW, Wanted(output="z"))
    with pytest.raises(SetupError, match="--classes names 2, and 'y' has 3 numbers"):
        found("y", RAW, Wanted(classes=("a", "b")))


def test_raw_values_are_finished_as_the_output_means_them() -> None:
    assert finished(target("probabilities", 3), RAW).sum(axis=1) == pytest.approx(1.0)
    assert np.array_equal(finished(target("logits"), RAW), RAW)
    assert np.linalg.norm(finished(target("vectors", unit=True), RAW), axis=1) == pytest.approx(1.0)
