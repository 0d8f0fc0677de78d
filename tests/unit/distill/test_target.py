"""What is learned of a teacher: which output, and how its numbers are meant."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.distill.lessons import target

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.target import Target, Wanted, check_wanted, find_target, finished
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
    assert (of.form, of.scalar, of.mean, of.spread) == ("numbers", True, (2.0,), (1.0,))
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


def test_scores_of_classes_that_do_not_exclude_each_other_are_numbers_or_refused() -> None:
    sigmoids = np.array([[0.9, 0.8], [0.2, 0.8], [0.1, 0.3]], np.float32)
    for wanted in (Wanted(), Wanted(task="classes"), Wanted(classes=("a", "b"))):
        with pytest.raises(SetupError, match=r"do not sum to 1 in 2 of 3 rows: .* --task numbers"):
            found("scores", sigmoids, wanted)
    assert found("y", np.random.default_rng(0).random((4, 100)).astype(np.float32)).form == "vectors"
    of = found("scores", sigmoids, Wanted(task="numbers"))
    assert of.form == "numbers"
    assert of.mean == pytest.approx((0.4, 1.9 / 3))


def test_half_precision_does_not_sum_to_one_exactly() -> None:
    raw = np.random.default_rng(0).random((50, 1000))
    halves = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float16)
    spec = TensorSpec("probabilities", "FP16", (1000,))
    assert find_target([spec], {"probabilities": halves}, Wanted()).form == "probabilities"


def test_numbers_are_learned_each_by_its_own_spread() -> None:
    values = np.array([[1.0, 10_000.0], [3.0, 30_000.0], [5.0, 20_000.0]], np.float32)
    of = found("y", values, Wanted(task="numbers"))
    assert of.mean == pytest.approx((3.0, 20_000.0))
    raw = (values - np.array(of.mean)) / np.array(of.spread)
    assert np.abs(raw).max(axis=0) == pytest.approx([np.sqrt(1.5), np.sqrt(1.5)])
    assert finished(of, raw) == pytest.approx(values)


def test_of_numbers_no_other_output_is_left_out_silently() -> None:
    specs = [TensorSpec("label", "INT64", ()), TensorSpec("scores", "FP32", (2,))]
    with pytest.raises(SetupError, match="also answers label"):
        find_target(specs, {"label": SHARES.argmax(axis=1), "scores": SHARES}, Wanted(task="numbers"))


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


def test_what_the_shapes_tell_is_told_without_an_answer() -> None:
    scores, place = TensorSpec("p", "FP32", (3,)), TensorSpec("label", "INT64", ())
    check_wanted([place, scores], Wanted())  # it may be the place of the highest
    check_wanted([TensorSpec("p", "FP32", (-1,))], Wanted(classes=("a", "b")))
    with pytest.raises(SetupError, match="the teacher also answers e, which does not follow from 'p'"):
        check_wanted([scores, TensorSpec("e", "FP32", (8,))], Wanted())
    with pytest.raises(SetupError, match="--task classes: 'y' is one number a row"):
        check_wanted([TensorSpec("y", "FP32", ())], Wanted(task="classes"))
    with pytest.raises(SetupError, match="no output of the teacher is a row of numbers"):
        check_wanted([place], Wanted())
