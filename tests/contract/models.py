"""The same models for each runtime, over which the contract suite runs: an ONNX file, OpenVINO's made of it, a Python
class, a program of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from onnx import TensorProto, helper

from forebay.core.tensors import NUMPY_TYPES
from forebay.models.source import ModelSource

TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
DYNAMIC = torch.export.Dim.DYNAMIC
Axes = list[int | str]
Tensor = tuple[str, int, Axes]


def write_onnx(path: Path, nodes: list[onnx.NodeProto], inputs: list[Tensor], outputs: list[Tensor]) -> Path:
    """Write a checked graph. Axes are numbers or names of variable axes."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def onnx_source(path: Path) -> ModelSource:
    """A source as `open_source` makes it."""
    return ModelSource(path.stem, "onnx", str(path))


def openvino_source(path: Path) -> ModelSource:
    """Convert an ONNX file, with all its digits, to a source beside it."""
    saved = path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(path), saved, compress_to_fp16=False)
    return ModelSource(path.stem, "openvino", str(saved))


def torch_source(path: Path, module: Any, inputs: tuple[Any, ...], *axes: Mapping[int, Any]) -> ModelSource:
    """Export a module. axes: of each input, which ones are variable (`DYNAMIC`)."""
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=axes or None)
    torch.export.save(program, path)
    return ModelSource(path.stem, "torch", str(path))


class Echo(torch.nn.Module):  # type: ignore[misc]  # torch is not checked
    """`y` is `x`."""

    def forward(self, x: Any) -> Any:
        return {"y": x}


class Both(torch.nn.Module):  # type: ignore[misc]
    """`sum` and `difference`."""

    def forward(self, a: Any, b: Any) -> Any:
        return {"sum": a + b, "difference": a - b}


def python_source(path: Path, text: str, class_name: str) -> ModelSource:
    """Write a module and name a class of it."""
    path.write_text("import numpy as np\nimport forebay\n\n" + text)
    return ModelSource(class_name.lower(), "python", str(path), class_name)


def echo(folder: Path, runtime: str, datatype: str) -> ModelSource:
    """`y` is `x`, two elements a row."""
    if runtime in ("onnx", "openvino"):
        axes: Axes = ["N", 2]
        node = helper.make_node("Identity", ["x"], ["y"])
        path = write_onnx(folder / "echo.onnx", [node], [("x", TYPES[datatype], axes)], [("y", TYPES[datatype], axes)])
        return onnx_source(path) if runtime == "onnx" else openvino_source(path)
    if runtime == "torch":
        x = torch.from_numpy(np.zeros((2, 2), NUMPY_TYPES[datatype]))
        return torch_source(folder / "echo.pt2", Echo(), (x,), {0: DYNAMIC})
    return python_source(
        folder / "echo.py",
        f"""
class Echo(forebay.Model):
    inputs = {{"x": ("{datatype}", [2])}}
    outputs = {{"y": ("{datatype}", [2])}}

    def predict(self, x):
        return x
""",
        "Echo",
    )


def sum_and_difference(folder: Path, runtime: str) -> ModelSource:
    """`sum` and `difference` of `a` and `b`, rows of any length. Fails where the lengths differ."""
    if runtime in ("onnx", "openvino"):
        nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
        left: Axes = ["N", "left"]
        right: Axes = ["N", "right"]
        tensors: list[Tensor] = [("a", TensorProto.FLOAT, left), ("b", TensorProto.FLOAT, right)]
        answers: list[Tensor] = [("sum", TensorProto.FLOAT, left), ("difference", TensorProto.FLOAT, left)]
        path = write_onnx(folder / "both.onnx", nodes, tensors, answers)
        return onnx_source(path) if runtime == "onnx" else openvino_source(path)
    if runtime == "torch":
        inputs = (torch.ones(2, 3), torch.ones(2, 3))
        return torch_source(folder / "both.pt2", Both(), inputs, {0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC})
    return python_source(
        folder / "both.py",
        """
class Both(forebay.Model):
    inputs = {"a": ("FP32", [-1]), "b": ("FP32", [-1])}
    outputs = {"sum": ("FP32", [-1]), "difference": ("FP32", [-1])}

    def predict(self, a, b):
        return a + b, a - b
""",
        "Both",
    )
