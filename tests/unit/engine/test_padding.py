"""Padded batches are filled up to a multiple where each new shape costs time, and no answer is lost by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forebay.core.errors import ExecutionError
from forebay.core.request import Request
from forebay.core.tensors import Array
from forebay.engine.flight import nobody
from forebay.engine.padding import Padding, multiple_for, rounded
from forebay.engine.split import lane_and_length
from forebay.models.signature import Signature, TensorSpec

TEXTS = Signature(
    (TensorSpec("ids", "INT64", (-1,)), TensorSpec("kind", "INT64", (1,)), TensorSpec("mask", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (2,)),),
)
WORDS = Signature((TensorSpec("ids", "INT64", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


def batch(rows: int, length: int) -> dict[str, Array]:
    values = np.arange(1, 1 + rows * length, dtype=np.int64).reshape(rows, length)
    return {"ids": values, "kind": np.ones((rows, 1), np.int64), "mask": np.ones((rows, length), np.int64)}


class Model:
    """Sums the ids of each row; notes the shapes that it is given; takes rows of so many ids."""

    def __init__(self, most: int = 1000, code: str = "model_error") -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.most = most
        self.code = code

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        ids, mask = inputs["ids"], inputs["mask"]
        assert ids.shape == mask.shape
        self.shapes.append(ids.shape)
        if ids.shape[1] > self.most:
            raise ExecutionError("index out of range", code=self.code)
        return [np.stack([(ids * mask).sum(1), mask.sum(1)], 1).astype(np.float32)]


@pytest.mark.parametrize(
    ("platform", "pads", "asked", "own", "multiple"),
    [
        ("openvino_ir", True, None, {}, 8),
        ("openvino_ir", True, 4, {}, 4),
        ("openvino_ir", True, 1, {}, 1),
        ("openvino_ir", False, 4, {}, 1),
        ("openvino_ir", None, None, {}, 1),
        ("onnxruntime_onnx", True, None, {}, 1),
        ("onnxruntime_onnx", True, 16, {}, 16),
        ("python", None, None, {"pad": True, "pad_multiple": 32}, 32),
        ("python", False, None, {"pad": True, "pad_multiple": 32}, 1),
        ("python", None, 2, {"pad": True, "pad_multiple": 32}, 2),
    ],
)
def test_the_multiple_is_the_operators_then_the_models_then_the_platforms(
    platform: str, pads: Any, asked: Any, own: dict[str, Any], multiple: int
) -> None:
    assert multiple_for(platform, TEXTS, pads=pads, asked=asked, own=own) == multiple


def test_what_answers_word_by_word_is_not_filled_up() -> None:
    assert multiple_for("openvino_ir", WORDS, pads=True, asked=8) == 1


def test_what_is_no_batch_is_not_filled_up() -> None:
    single = Signature(TEXTS.inputs, TEXTS.outputs, batched=False)
    assert multiple_for("openvino_ir", single, pads=True, asked=8) == 1


@pytest.mark.parametrize(("length", "filled"), [(1, 8), (7, 8), (8, 8), (9, 16), (16, 16)])
def test_all_variable_axes_are_filled_up_with_zeros(length: int, filled: int) -> None:
    model, padding = Model(), Padding(TEXTS, 8)
    given = batch(3, length)
    (answer,) = padding.run(model.run, given, 3)
    assert model.shapes == [(3, filled)]
    assert answer[:, 0].tolist() == given["ids"].sum(1).tolist()
    assert answer[:, 1].tolist() == [length] * 3
    assert given["ids"].shape == (3, length)


def test_a_model_that_takes_no_more_is_soon_asked_as_it_is() -> None:
    model, padding = Model(most=77), Padding(TEXTS, 8)
    twice, once = [(1, 80), (1, 75)], [(1, 75)]
    for length, shapes in ((75, twice), (75, twice), (75, once), (77, [(1, 77)]), (70, [(1, 72)])):
        model.shapes.clear()
        (answer,) = padding.run(model.run, batch(1, length), 1)
        assert answer[0, 1] == length
        assert model.shapes == shapes


def test_what_fails_in_itself_fails_with_its_own_error_and_nothing_is_learned() -> None:
    model, padding = Model(most=20), Padding(TEXTS, 8)
    with pytest.raises(ExecutionError, match="index out of range"):
        padding.run(model.run, batch(1, 21), 1)
    model.most = 1000
    model.shapes.clear()
    padding.run(model.run, batch(1, 21), 1)
    assert model.shapes == [(1, 24)]


def test_one_failure_by_chance_changes_nothing() -> None:
    model, padding = Model(most=10), Padding(TEXTS, 8)
    padding.run(model.run, batch(1, 9), 1)
    model.most = 1000
    model.shapes.clear()
    padding.run(model.run, batch(1, 9), 1)
    assert model.shapes == [(1, 16)]


def test_only_variable_axes_tell_how_much_a_model_takes() -> None:
    wide = Signature((TensorSpec("ids", "FP32", (-1, 512)),), (TensorSpec("y", "FP32", (1,)),))
    shapes = []

    def run(inputs: dict[str, Array], rows: int) -> list[Array]:
        shapes.append(inputs["ids"].shape)
        if inputs["ids"].shape[1] > 9:
            raise ExecutionError("index out of range", code="model_error")
        return [inputs["ids"].sum((1, 2))[:, None]]

    padding = Padding(wide, 8)
    for _ in range(3):
        padding.run(run, {"ids": np.ones((1, 9, 512), np.float32)}, 1)
    assert shapes == [(1, 16, 512), (1, 9, 512), (1, 16, 512), (1, 9, 512), (1, 9, 512)]


def test_what_runs_out_of_memory_is_not_run_twice() -> None:
    model, padding = Model(most=20, code="out_of_memory"), Padding(TEXTS, 8)
    with pytest.raises(ExecutionError):
        padding.run(model.run, batch(1, 21), 1)
    assert model.shapes == [(1, 24)]


def test_a_request_costs_what_it_is_filled_up_to() -> None:
    request = Request([b"", b"", b""], ((13,), (1,), (13,)), 1, 208, 1.0, 0.0, nobody)
    lane_and_length(TEXTS, True, request, 8)
    assert (request.length, request.lane) == (16, None)
    lane_and_length(TEXTS, True, request)
    assert request.length == 13


@pytest.mark.parametrize(("length", "multiple", "expected"), [(0, 8, 0), (1, 1, 1), (17, 8, 24), (100, 64, 128)])
def test_rounded(length: int, multiple: int, expected: int) -> None:
    assert rounded(length, multiple) == expected
