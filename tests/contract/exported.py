"""Models as OpenVINO and torch write them."""

# torch is not type checked.
# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from forebay.core.tensors import NUMPY_TYPES
from forebay.models.source import ModelSource

DYNAMIC = torch.export.Dim.DYNAMIC


def openvino_source(source: ModelSource) -> ModelSource:
    """An ONNX file converted, with all its digits, beside it."""
    saved = Path(source.path).with_suffix(".xml")
    openvino.save_model(openvino.convert_model(source.path), saved, compress_to_fp16=False)
    return ModelSource(source.name, "openvino", str(saved))


def torch_source(path: Path, module: Any, inputs: tuple[Any, ...], *axes: Mapping[int, Any]) -> ModelSource:
    """A module exported as it is. axes: of each input, which ones are variable (`DYNAMIC`)."""
    program = torch.export.export(module, inputs, dynamic_shapes=axes or None)
    torch.export.save(program, path)
    return ModelSource(path.stem, "torch", str(path))


class Echo(torch.nn.Module):
    """`y` is `x`."""

    def forward(self, x: Any) -> Any:
        return {"y": x}


class Both(torch.nn.Module):
    """`sum` and `difference`."""

    def forward(self, a: Any, b: Any) -> Any:
        return {"sum": a + b, "difference": a - b}


def torch_echo(path: Path, datatype: str) -> ModelSource:
    """`y` is `x`, two elements a row."""
    x = torch.from_numpy(np.zeros((2, 2), NUMPY_TYPES[datatype]))
    return torch_source(path, Echo(), (x,), {0: DYNAMIC})


def torch_both(path: Path) -> ModelSource:
    """`sum` and `difference` of `a` and `b`, rows of any length."""
    axes = {0: DYNAMIC, 1: DYNAMIC}
    return torch_source(path, Both(), (torch.ones(2, 3), torch.ones(2, 3)), axes, axes)


class Mlp(torch.nn.Module):
    """The network of examples/mlp with its weights."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        super().__init__()
        self.first = torch.nn.Linear(*weights["w1"].shape)
        self.second = torch.nn.Linear(*weights["w2"].shape)
        for layer, number in ((self.first, 1), (self.second, 2)):
            layer.weight.data = torch.from_numpy(weights[f"w{number}"].T.copy())
            layer.bias.data = torch.from_numpy(weights[f"b{number}"].copy())

    def forward(self, x: Any) -> Any:
        return {"y": self.second(self.first(x).relu()).softmax(dim=1)}
