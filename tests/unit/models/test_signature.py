"""Declarations of inputs and outputs, and shapes as the protocol shows them."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES
from forebay.models.signature import Signature, TensorSpec, spec_from_declaration


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
@pytest.mark.parametrize("shape", [[], [3], (2, -1), [0]])
def test_declarations(datatype: str, shape: list[int] | tuple[int, ...]) -> None:
    assert spec_from_declaration("inputs", "m", {"x": (datatype, shape)}) == (TensorSpec("x", datatype, tuple(shape)),)
    assert spec_from_declaration("inputs", "m", {"x": [datatype, shape]}) == (TensorSpec("x", datatype, tuple(shape)),)


def test_order_is_kept() -> None:
    specs = spec_from_declaration("outputs", "m", {name: ("FP32", [1]) for name in "zxa"})
    assert [spec.name for spec in specs] == ["z", "x", "a"]


@pytest.mark.parametrize(
    "declared",
    [
        {},
        None,
        [("x", "FP32", [1])],
        {"x": "FP32"},
        {"x": ("FP32",)},
        {"x": ("FP32", [1], 3)},
        {"x": ("float32", [1])},
        {"x": (["FP32"], [1])},
        {"x": (None, [1])},
        {"x": ("FP32", 1)},
        {"x": ("FP32", "")},
        {"x": ("FP32", [-2])},
        {"x": ("FP32", [1.0])},
        {"x": ("FP32", None)},
    ],
)
def test_what_is_no_declaration_names_the_model_and_the_mend(declared: Any) -> None:
    with pytest.raises(SetupError, match=r"model m: `?inputs") as caught:
        spec_from_declaration("inputs", "m", declared)
    assert caught.value.code == "model_load_error"
    assert "FP32" in caught.value.message


@pytest.mark.parametrize(("batched", "shape"), [(True, [-1, 2, -1]), (False, [2, -1])])
def test_wire_shape(batched: bool, shape: list[int]) -> None:
    spec = TensorSpec("x", "FP32", (2, -1))
    assert Signature((spec,), (spec,), batched).wire_shape(spec) == shape


@pytest.mark.parametrize(("shape", "variable"), [((), False), ((3,), False), ((-1,), True), ((3, -1), True)])
def test_variable(shape: tuple[int, ...], variable: bool) -> None:
    assert TensorSpec("x", "FP32", shape).variable is variable
