"""Changes of a graph that recipes rest on keep what it computes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests.unit.optimize.digits import digits, mlp, model_of

from forebay.core.tensors import Array
from forebay.optimize.graphs import sum_by_products
from forebay.optimize.smoothing import smooth


def run(model: Any, x: Array) -> Array:
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    return np.asarray(found)


def kinds(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def softmax(opset: int, rank: int, axis: int | None, kind: int = TensorProto.FLOAT) -> Any:
    axes: list[Any] = ["N", *("T" * place for place in range(1, rank))]
    node = helper.make_node("Softmax", ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    values = [helper.make_tensor_value_info(name, kind, axes) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "softmax", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    return model


@pytest.mark.parametrize("opset", [15, 17, 18, 20])
@pytest.mark.parametrize(("rank", "axis"), [(2, None), (3, -1), (4, 3)])
def test_a_softmax_whose_sum_is_a_product_is_the_same_softmax(opset: int, rank: int, axis: int | None) -> None:
    model = softmax(opset, rank, axis)
    x = np.random.default_rng(0).standard_normal((3, 5, 7, 9)[:rank]).astype(np.float32) * 30
    x.flat[:4] = -1e30  # masked
    wanted = run(model, x)
    assert sum_by_products(model) == 1
    onnx.checker.check_model(model)
    assert kinds(model)["MatMul"] == 1
    assert not kinds(model)["Softmax"]
    np.testing.assert_allclose(run(model, x), wanted, rtol=1e-5, atol=1e-7)


def test_in_float64_it_stays_float64() -> None:
    model = softmax(17, 2, -1, TensorProto.DOUBLE)
    sum_by_products(model)
    x = np.random.default_rng(0).standard_normal((3, 5))
    np.testing.assert_allclose(run(model, x), run(softmax(17, 2, -1, TensorProto.DOUBLE), x), rtol=1e-13)


@pytest.mark.parametrize(("opset", "axis"), [(17, 1), (17, 0), (13, -1)])
def test_a_softmax_of_another_axis_or_of_an_old_graph_is_left_alone(opset: int, axis: int) -> None:
    model = softmax(opset, 3, axis)
    before = model.SerializeToString()
    assert sum_by_products(model) == 0
    assert model.SerializeToString() == before


def outliers() -> tuple[Any, Array]:
    """A product of which a channel is tens of times louder than the others in some rows, where it matters most."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, (400, 64)).astype(np.float32)
    x[:, 5] = np.where(np.arange(400) % 29 == 0, 60.0, 0.0)
    weights = random.standard_normal((64, 16)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"], name="only")]
    return model_of(nodes, {"w": weights}, {"x": ["N", 64]}, {"logits": ["N", 16]}), x


def test_the_loudest_channels_are_multiplied_by_themselves_and_nothing_else_changes() -> None:
    model, x = outliers()
    smoothed = smooth(model, [{"x": row} for row in x], loud=True)
    onnx.checker.check_model(smoothed.model)
    (loud,) = smoothed.loud
    by_name = {node.name: node for node in smoothed.model.graph.node}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in smoothed.model.graph.initializer}
    assert constants[by_name[loud].input[1]].shape == (4, 16), "one channel in 16"
    (factor,) = (constants[node.input[1]] for node in by_name.values() if node.op_type == "Mul")
    assert factor[5] == 0
    assert np.count_nonzero(factor) == 60
    assert not constants[by_name["only"].input[1]][factor == 0].any(), "what is not read must not widen the range"
    np.testing.assert_allclose(run(smoothed.model, x), run(model, x), rtol=1e-4, atol=1e-4)


def test_without_outliers_or_where_it_may_not_be_no_channel_is_taken_out() -> None:
    x, _ = digits()
    assert smooth(mlp(), [{"x": row} for row in x[:64]], loud=True).loud == frozenset()
    model, x = outliers()
    assert smooth(model, [{"x": row} for row in x], loud=False).loud == frozenset()
