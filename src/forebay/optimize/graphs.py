"""ONNX graphs as recipes need them: named nodes, simple parts already folded, which of them can be in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.models.artefact import isa_here

COMPUTE = ("Conv", "Gemm", "MatMul")
"""Operators that hold weights and take the time."""
PASSED_THROUGH = (
    *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat"),
    *("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Resize"),
)
"""Operators between convolutions: in 8 bits too, or every convolution would go back to floats in between."""
_OLDEST_OPSET = 13
"""QuantizeLinear by channel."""
_TARGET_OPSET = 17
_CAST_LIKE, _AXES_ARE_INPUTS = 15, 18
"""First opsets with CastLike, and where the axes of ReduceMax are no attribute."""
_LAST, _ONE = "softmax_last_axis", "softmax_one"
SUM = "softmax_sum_"
"""What the names of the products that `sum_by_products` makes begin with."""


def prepare(graph: Path) -> Any:
    """The model with constants folded and batch norms merged (ONNX Runtime's basic level), every node named, and the
    shapes that can be inferred.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(graph))
    if opset_of(model) < _OLDEST_OPSET:
        model = onnx.version_converter.convert_version(model, _TARGET_OPSET)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "folded.onnx")
        onnx.save(model, str(source))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        # Gemm in place of MatMul and Add would hide the layers' names, and weights-int8 knows only MatMul.
        ort.InferenceSession(str(source), options, ["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"])
        model = onnx.load(str(target))
    name_nodes(model)
    return onnx.shape_inference.infer_shapes(model)


def opset_of(model: Any) -> int:
    """Version of the standard operators."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def name_nodes(model: Any) -> None:
    """Gives every node a name of its own."""
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}"
        taken.add(node.name)


def compute_nodes(model: Any) -> list[Any]:
    """The nodes of `COMPUTE` that have constant weights, in order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in COMPUTE and node.input[1] in constants]


def sum_by_products(model: Any) -> int:
    """Takes the sum of each Softmax over the last axis by a product with ones; how many there were.

    Libraries add up a row in pieces, whose number depends on its length. A row that is padded for its company then
    differs in the last bit, which is nothing, unless it decides how the next layer rounds: to 8 bits, or to bfloat16.
    Products add up in the order of the axis, and zeros behind the end change nothing.
    """
    from onnx import numpy_helper

    opset = opset_of(model)
    if opset < _CAST_LIKE:
        return 0
    ranks = _ranks(model)
    nodes: list[Any] = []
    count = 0
    for node in model.graph.node:
        if node.op_type == "Softmax" and _axis(node) in (-1, ranks.get(node.input[0], 0) - 1):
            count += 1
            nodes += _softmax(node, opset)
        else:
            nodes.append(node)
    if count:
        for name, value in ((_LAST, [-1]), (_ONE, [1])):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return count


def _softmax(node: Any, opset: int) -> list[Any]:
    from onnx import helper, numpy_helper

    x, y = node.input[0], node.output[0]
    one = numpy_helper.from_array(np.ones(1, np.float32))
    largest = {"inputs": [x, _LAST]} if opset >= _AXES_ARE_INPUTS else {"inputs": [x], "axes": [-1]}
    return [
        helper.make_node("ReduceMax", outputs=[f"{y}_most"], keepdims=1, **largest),
        helper.make_node("Sub", [x, f"{y}_most"], [f"{y}_low"]),
        helper.make_node("Exp", [f"{y}_low"], [f"{y}_exp"]),
        helper.make_node("Shape", [x], [f"{y}_shape"]),
        helper.make_node("Gather", [f"{y}_shape", _LAST], [f"{y}_length"]),
        helper.make_node("Concat", [f"{y}_length", _ONE], [f"{y}_column"], axis=0),
        helper.make_node("ConstantOfShape", [f"{y}_column"], [f"{y}_single"], value=one),
        helper.make_node("CastLike", [f"{y}_single", x], [f"{y}_ones"]),
        helper.make_node("MatMul", [f"{y}_exp", f"{y}_ones"], [f"{y}_sum"], name=f"{SUM}{y}"),
        helper.make_node("Div", [f"{y}_exp", f"{y}_sum"], [y], name=node.name),
    ]


def _axis(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), -1)


def _ranks(model: Any) -> dict[str, int]:
    """Axes of the tensors whose shape can be inferred."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def has(model: Any, kinds: Sequence[str]) -> bool:
    """Whether an operator of these kinds is there."""
    return any(node.op_type in kinds for node in model.graph.node)


def count_of(model: Any, kind: str) -> int:
    """How many operators of this kind are there. What a quantiser does not know it passes over in silence, and writes
    the graph all the same.
    """
    return sum(node.op_type == kind for node in model.graph.node)


def saturates() -> bool:
    """Whether products of 8-bit numbers may overflow their 16-bit sums: x86 without VNNI. Weights then get 7 bits.

    Source: "When to use reduce-range", https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    isa = isa_here()
    return isa[0] in ("x86_64", "amd64") and not {"avx_vnni", "avx512_vnni"} & set(isa)
