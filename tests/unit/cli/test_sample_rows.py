"""Samples that hold NaN, and answers that do: told by the number of the sample, not compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebay.cli.answers import find_class_output
from forebay.cli.sample_rows import SampleRows, read_rows
from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("p", "FP32", (2,)), TensorSpec("e", "FP32", (4,))))


def rows_of(folder: Path, values: Array, signature: Signature = SIGNATURE) -> SampleRows:
    np.savez(folder / "rows.npz", x=values)
    return read_rows(folder / "rows.npz", signature)


def test_the_sample_is_named_as_it_stands_in_the_file(tmp_path: Path) -> None:
    x = np.array([[1, 1], [1, 1], [2, 2], [np.nan, 1]], np.float32)  # the second is left out, being the same
    rows = rows_of(tmp_path, x)
    answers = {"p": np.array([[1, 0], [0, 1], [np.nan, np.nan]], np.float32), "e": np.ones((3, 4), np.float32)}
    with pytest.raises(SetupError) as told:
        find_class_output(SIGNATURE, answers, None, rows, "net")
    assert told.value.message == (
        f"--samples {tmp_path}/rows.npz, sample 4, where x holds NaN or infinity: net answers NaN or infinity in "
        "output 'p', as for 1 of 3 samples; fill them up, or leave such samples out, or name another output with "
        "--output"
    )
    assert find_class_output(SIGNATURE, answers, "e", rows, "net") == ("e", "logits")


def test_a_model_that_makes_nan_of_numbers_is_to_be_looked_at(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, np.array([[1, 1], [2, 2]], np.float32))
    with pytest.raises(SetupError, match=r"sample 2: net answers NaN .* or look at the model"):
        rows.check_finite("net", "p", np.array([[1, 0], [0, np.inf]], np.float32))
    rows.check_finite("net", "by", np.array([1, 2]))


def test_nan_is_refused_before_it_is_asked_only_of_models_that_do_not_take_it(tmp_path: Path) -> None:
    x = np.array([[1, 1], [np.nan, 1]], np.float32)
    assert len(rows_of(tmp_path, x)) == 2
    picky = Signature((TensorSpec("x", "FP32", (2,), refuses=("nan", "inf")),), SIGNATURE.outputs)
    with pytest.raises(SetupError, match="sample 2: 'x' holds NaN, which the model does not take; fill it up"):
        rows_of(tmp_path, x, picky)
