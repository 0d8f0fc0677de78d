"""The same models for each runtime, over which the contract suite runs: an ONNX file, OpenVINO's made of it, a Python
class, a program of torch (the module for the latter takes seconds to import)."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

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


def python_source(path: Path, text: str, class_name: str) -> ModelSource:
    """Write a module and name a class of it."""
    path.write_text("import numpy as np\nimport forebay\n\n" + text)
    return ModelSource(class_name.lower(), "python", str(path), class_name)


def echo(folder: Path, runtime: str, datatype: str) -> ModelSource:
    """`y` is `x`, two elements a row."""
    if runtime == "torch":
        from tests.contract.exported import torch_echo

        return torch_echo(folder / "echo.pt2", datatype)
    if runtime == "openvino":
        from tests.contract.exported import openvino_source

        return openvino_source(echo(folder, "onnx", datatype))
    if runtime == "onnx":
        axes: Axes = ["N", 2]
        node = helper.make_node("Identity", ["x"], ["y"])
        path = write_onnx(folder / "echo.onnx", [node], [("x", TYPES[datatype], axes)], [("y", TYPES[datatype], axes)])
        return onnx_source(path)
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
    if runtime == "torch":
        from tests.contract.exported import torch_both

        return torch_both(folder / "both.pt2")
    if runtime == "openvino":
        from tests.contract.exported import openvino_source

        return openvino_source(sum_and_difference(folder, "onnx"))
    if runtime == "onnx":
        nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
        left: Axes = ["N", "left"]
        right: Axes = ["N", "right"]
        tensors: list[Tensor] = [("a", TensorProto.FLOAT, left), ("b", TensorProto.FLOAT, right)]
        answers: list[Tensor] = [("sum", TensorProto.FLOAT, left), ("difference", TensorProto.FLOAT, left)]
        return onnx_source(write_onnx(folder / "both.onnx", nodes, tensors, answers))
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
