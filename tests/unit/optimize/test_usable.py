"""A sample that the original cannot be measured with is named, whichever part of the split it falls into."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from tests.contract.tabular import dump
from tests.unit.optimize.digits import SEEN, digits, mlp
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.core.errors import SetupError
from forebay.optimize.goals import Asked
from forebay.optimize.run import Order, optimize


def refused(source: Path, name: str, number: int | None, value: float) -> str:
    """What is said where one of 40 samples, or all of them, hold such a value."""
    x = digits()[0][SEEN : SEEN + 40].copy()
    x[slice(None) if number is None else number - 1, 7] = value
    np.savez(source.parent / "samples.npz", allow_pickle=False, **{name: x})
    asked = Asked(min_speedup=0.0, effort=QUICK)
    order = Order(
        str(source), source.parent / "samples.npz", source.parent / "out", asked, held_out=0.25, only=("static-int8",)
    )
    with pytest.raises(SetupError) as told:
        optimize(order, Silent())
    return told.value.message


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_a_sample_that_is_answered_nan_is_named_in_the_calibration_part_too(tmp_path: Path, number: int) -> None:
    onnx.save(mlp(), str(tmp_path / "digits.onnx"))
    said = refused(tmp_path / "digits.onnx", "x", number, np.nan)
    assert f"answers NaN or infinity in 'logits' to sample {number} of --samples (whose 'x' holds NaN)" in said


@pytest.mark.parametrize(
    ("value", "called"), [(np.nan, "NaN"), pytest.param(-np.inf, "infinity", marks=pytest.mark.full)]
)
def test_a_value_that_the_model_takes_nowhere_is_named(tmp_path: Path, value: float, called: str) -> None:
    x, y = digits()
    dump(tmp_path / "m.skops", LogisticRegression(max_iter=400).fit(x[:SEEN], y[:SEEN]))
    said = refused(tmp_path / "m.skops", "input", 5, value)
    assert said.startswith(f"--samples, sample 5: 'input' holds {called}, which this model does not take")


def test_a_sample_that_is_answered_nan_in_another_output_that_counts_is_named(tmp_path: Path) -> None:
    model = mlp()
    model.graph.node.append(helper.make_node("Sqrt", ["x"], ["risk"]))
    model.graph.output.append(helper.make_tensor_value_info("risk", TensorProto.FLOAT, ["N", 64]))
    onnx.save(model, str(tmp_path / "digits.onnx"))
    said = refused(tmp_path / "digits.onnx", "x", None, -1.0)
    assert re.search("answers NaN or infinity in 'risk' to sample [0-9]+ of --samples, and to 9 others", said)
    assert "nobody uses it: with --output logits that output alone counts" in said
