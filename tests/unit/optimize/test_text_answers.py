"""Models that answer texts, such as the names of classes, are compared by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC
from tests.contract.tabular import dump
from tests.unit.optimize.digits import SEEN, digits
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.core.errors import SetupError
from forebay.core.tensors import Array, bytes_array
from forebay.optimize.goals import Asked
from forebay.optimize.heads import HeadName, choose_head
from forebay.optimize.invariance import judge
from forebay.optimize.run import Order, optimize

WORDS = np.array(["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


@pytest.mark.parametrize("labelled", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_classifier_of_words_may_leave_its_library(tmp_path: Path, *, labelled: bool) -> None:
    x, y = digits()
    dump(tmp_path / "m.skops", LinearSVC().fit(x[:SEEN], WORDS[y[:SEEN]]))
    labels = {"labels": WORDS[y[SEEN:]]} if labelled else {}
    np.savez(tmp_path / "samples.npz", allow_pickle=False, input=x[SEEN:], **labels)
    order = Order(
        source=str(tmp_path / "m.skops"),
        samples=tmp_path / "samples.npz",
        out=tmp_path / "out",
        asked=Asked(min_speedup=0.0, effort=QUICK),
        only=("onnx",),
    )
    report = optimize(order, Silent())
    (found,) = report.candidates
    assert report.chosen == "onnx", found.detail
    assert (report.output, report.goals.metric) == ("label", "accuracy" if labelled else "top1")
    assert found.agreement is not None
    assert found.agreement.top1 == 1.0
    assert found.agreement.accuracy is None if not labelled else (found.agreement.accuracy or 0.0) > 0.8
    assert found.invariance is not None
    assert found.invariance.holds


def text(word: str) -> Array:
    return bytes_array([word.encode()], ())


def test_a_text_that_changes_in_a_batch_is_seen() -> None:
    alone, batches = [text("a"), text("b")], [[0, 1]]
    assert judge(alone, batches, [bytes_array([b"a", b"b"], (2,))], 0.0).holds
    assert not judge(alone, batches, [bytes_array([b"a", b"a"], (2,))], 0.0).holds


@pytest.mark.parametrize("head", ["ridge", "threshold"])
def test_a_head_of_numbers_is_refused_for_texts(head: HeadName) -> None:
    with pytest.raises(SetupError, match=f"the output holds texts.*--head {head} is for numbers.*--metric top1"):
        choose_head(head, [text("a"), text("b")] * 8, ["a", "b"] * 8)
