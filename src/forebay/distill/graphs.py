"""Linear models and trees as ONNX graphs that take what the teacher takes and answer what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from forebay.core.tensors import Array
from forebay.distill.export import ONNX_TYPES
from forebay.distill.target import Target
from forebay.models.signature import TensorSpec
from forebay.optimize.sources.bert_graph import GraphWriter

_OPSET: Final = 17
_FEATURES, _TREE = "features", "tree_values"


def linear_graph(inputs: Sequence[TensorSpec], target: Target, weights: Array, bias: Array) -> bytes:
    """weights: float64 [features, width], on the inputs as they come."""
    g = GraphWriter()
    joined = _features(g, inputs)
    product = g.op("MatMul", joined, g.constant("weights", weights.astype(np.float32)))
    raw = g.op("Add", product, g.constant("bias", bias.astype(np.float32)))
    if target.form == "probabilities":
        raw = g.op("Softmax", raw, axis=-1)
    elif target.form == "numbers":
        raw = _affine(g, raw, target)
    elif target.unit:
        raw = _unit(g, raw)
    return _whole(g, inputs, target, raw, [])


def tree_graph(inputs: Sequence[TensorSpec], target: Target, tree: Any) -> bytes:
    """tree: a fitted DecisionTreeRegressor, of probabilities where there are classes."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    g = GraphWriter()
    joined = _features(g, inputs)
    converted = convert_sklearn(
        tree,
        initial_types=[(_FEATURES, FloatTensorType([None, tree.n_features_in_]))],
        target_opset={"": _OPSET, "ai.onnx.ml": 3},
    )
    (output,) = [one.name for one in converted.graph.output]
    names = {_FEATURES: joined, output: _TREE}
    for node in converted.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        g.nodes.append(node)
    for one in converted.graph.initializer:
        g.initializers[one.name] = one
    values = g.op("Reshape", _TREE, g.constant("by_row", np.array([-1, target.width])))
    if target.form == "logits":
        values = g.op("Log", g.op("Max", values, g.constant("least", np.float32(1e-7))))
    elif target.unit:
        values = _unit(g, values)
    return _whole(g, inputs, target, values, list(converted.opset_import))


def _features(g: GraphWriter, inputs: Sequence[TensorSpec]) -> str:
    """All inputs as float32 [rows, features]."""
    from onnx import TensorProto

    flat = []
    for spec in inputs:
        count = int(np.prod(spec.row_shape, dtype=np.int64))
        cast = g.op("Cast", spec.name, to=TensorProto.FLOAT)
        flat.append(g.op("Reshape", cast, g.constant(f"{spec.name}_flat", np.array([-1, count]))))
    return flat[0] if len(flat) == 1 else g.op("Concat", *flat, axis=1)


def _affine(g: GraphWriter, values: str, target: Target) -> str:
    scaled = g.op("Mul", values, g.constant("spread", np.asarray(target.spread, np.float32)))
    return g.op("Add", scaled, g.constant("mean", np.asarray(target.mean, np.float32)))


def _unit(g: GraphWriter, values: str) -> str:
    length = g.op("Max", g.op("ReduceL2", values, axes=[1], keepdims=1), g.constant("tiny", np.float32(1e-12)))
    return g.op("Div", values, length)


def _whole(g: GraphWriter, inputs: Sequence[TensorSpec], target: Target, values: str, opsets: Sequence[Any]) -> bytes:
    """The model, with the teacher's outputs made of values [rows, width]."""
    from onnx import checker, helper

    if target.scalar:
        shown = g.op("Reshape", values, g.constant("one_axis", np.array([-1])))
    else:
        shown = values
    g.op("Cast", shown, output=target.name, to=_type(target.spec))
    if target.index is not None:
        place = g.op("ArgMax", values, axis=1, keepdims=0)
        g.op("Cast", place, output=target.index.name, to=_type(target.index))
    graph = helper.make_graph(
        g.nodes,
        "student",
        [helper.make_tensor_value_info(one.name, _type(one), ["batch", *one.row_shape]) for one in inputs],
        [helper.make_tensor_value_info(one.name, _type(one), ["batch", *one.row_shape]) for one in target.outputs],
        list(g.initializers.values()),
    )
    domains = {one.domain: one.version for one in opsets} | {"": _OPSET}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
        producer_name="forebay",
    )
    model.ir_version = 8
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _type(spec: TensorSpec) -> int:
    from onnx import TensorProto

    return int(getattr(TensorProto, ONNX_TYPES[spec.datatype]))
