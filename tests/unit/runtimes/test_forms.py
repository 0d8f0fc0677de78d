"""Choosing between two forms of a model: the faster one by batch size, and never one that answers differently."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.core.tensors import Array
from forebay.models.signature import TensorSpec
from forebay.runtimes import forms
from forebay.runtimes.forms import Choice, Form


def form(name: str, log: list[tuple[str, int]]) -> Form:
    def run(x: Array) -> list[Array]:
        log.append((name, len(x)))
        return [x.sum(axis=1)]

    return Form(name, run)


def test_each_form_runs_from_its_own_size_on() -> None:
    log: list[tuple[str, int]] = []
    choice = Choice([1, 8, 64], [form("a", log), form("b", log), form("c", log)])
    for rows in (1, 7, 8, 63, 64, 5000):
        choice.run(np.ones((rows, 2), np.float32), rows)
    assert log == [("a", 1), ("a", 7), ("b", 8), ("b", 63), ("c", 64), ("c", 5000)]
    assert str(choice) == "a from 1 rows, b from 8 rows, c from 64 rows"
    assert str(Choice([1], [form("a", log)])) == "a"


def test_what_was_timed_decides_and_a_small_gain_does_not() -> None:
    a, b = form("a", []), form("b", [])
    timed = [(1, [1.0, 10.0]), (2, [2.0, 10.0]), (4, [4.0, 3.9]), (8, [8.0, 4.0]), (16, [4.9, 5.0]), (32, [40.0, 6.0])]
    choice = forms._choice(timed, [a, b])
    assert (choice.starts, [x.name for x in choice.forms]) == ([1, 8], ["a", "b"])
    # A third form that came up late is compared where it was timed.
    choice = forms._choice([(1, [1.0, 9.0]), (32, [32.0, 20.0]), (48, [48.0, 30.0, 11.0])], [a, b, form("c", [])])
    assert (choice.starts, [x.name for x in choice.forms]) == ([1, 32, 48], ["a", "b", "c"])


def test_sizes_are_dense_and_end_at_the_largest_batch() -> None:
    assert forms._sizes(1) == [1]
    assert forms._sizes(20) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert forms._sizes(256)[-1] == 256


def test_one_form_for_every_size_where_answers_may_not_depend_on_the_batch() -> None:
    log: list[tuple[str, int]] = []
    rows = np.ones((16, 2), np.float32)
    choice = forms.choose(form("own", log), form("ONNX", log), rows, 256, single=True)
    assert len(choice.forms) == 1
    assert {size for _, size in log} == {1}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_pieces_are_the_whole(count: int) -> None:
    log: list[tuple[str, int]] = []
    x = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    run = forms.in_pieces(form("a", log).run, 4)
    assert run(x)[0].tolist() == x.sum(axis=1).tolist()
    assert sum(size for _, size in log) == count
    assert all(size <= 4 for _, size in log)


SPECS = [TensorSpec("label", "INT64", ()), TensorSpec("probabilities", "FP32", (2,))]


def answers(second: list[float], labels: list[int]) -> list[Array]:
    p = np.array(second, np.float32)
    return [np.array(labels), np.stack([1 - p, p], axis=1)]


def test_answers_agree_within_tolerance_and_labels_where_no_tie_excuses_them() -> None:
    native = answers([0.2, 0.9], [0, 1])
    assert forms.disagreement(SPECS, native, answers([0.2, 0.9], [0, 1])) == ""
    assert forms.disagreement(SPECS, native, answers([0.200004, 0.9], [0, 1])) == ""
    assert forms.disagreement(SPECS, native, answers([0.201, 0.9], [0, 1])).startswith(
        "probabilities differs by up to 0.001"
    )
    assert forms.disagreement(SPECS, native, answers([0.2, 0.9], [1, 1])) == "label differs in 1 of 2 rows"
    assert forms.disagreement(SPECS, answers([0.5], [0]), answers([0.500001], [1])) == ""
    nan = [np.array([np.nan, 1.0], np.float32)]
    spec = [TensorSpec("prediction", "FP32", ())]
    assert forms.disagreement(spec, nan, nan) == ""
    assert forms.disagreement(spec, nan, [np.array([0.0, 1.0], np.float32)])
    assert forms.disagreement(spec, nan, [np.zeros((2, 1), np.float32)]).startswith("prediction has shape [2, 1]")
