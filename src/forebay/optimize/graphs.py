"""ONNX graphs as recipes need them: named nodes, simple parts already folded, which of them can be in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def has(model: Any, kinds: Sequence[str]) -> bool:
    """Whether an operator of these kinds is there."""
    return any(node.op_type in kinds for node in model.graph.node)


def saturates() -> bool:
    """Whether products of 8-bit numbers may overflow their 16-bit sums: x86 without VNNI. Weights then get 7 bits.

    Source: "When to use reduce-range", https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    isa = isa_here()
    return isa[0] in ("x86_64", "amd64") and not {"avx_vnni", "avx512_vnni"} & set(isa)
