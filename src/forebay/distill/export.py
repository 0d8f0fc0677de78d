"""A trained torch module as an ONNX file that has the teacher's names, types and axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.losses import finish
from forebay.distill.target import Target
from forebay.models.signature import TensorSpec
from forebay.optimize.samples import Row, batch_of
from forebay.optimize.sources.torch_module import quiet

_ROWS: Final = 3
_SHOWN: Final = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ONNX_TYPES: Final = {
    "BOOL": "BOOL", "UINT8": "UINT8", "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64", "INT8": "INT8",
    "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE",
    "BYTES": "STRING",
}  # fmt: skip
"""The protocol's datatypes by ONNX's names."""


def write_module(module: Any, target: Target, inputs: Sequence[TensorSpec], rows: Sequence[Row], file: Path) -> None:
    """Export it. `inputs`: the tensors that `forward` takes, by name. `rows`: of them, as examples.

    Raises `SetupError` where torch cannot say it in ONNX.
    """
    import torch

    served = _served(torch, module, target, [spec.name for spec in inputs])
    axes = {spec.name: [place for place, axis in enumerate(spec.row_shape, 1) if axis < 0] for spec in inputs}
    examples = _examples(rows, axes)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys([0, *axes[spec.name]], dynamic) for spec in inputs)
    try:
        with quiet():
            program = torch.onnx.export(
                served.eval(),
                tuple(torch.from_numpy(examples[spec.name]) for spec in inputs),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in target.outputs],
                external_data=False,
                verbose=False,
            )
            program.save(str(file), external_data=False)
    except ImportError as error:
        raise SetupError(f"a student of torch becomes ONNX by libraries that are not here ({error}); pip install "
                         "'forebay[torch,optimize]'") from None  # fmt: skip
    except Exception as error:  # torch has many
        raise SetupError(f"torch cannot say this student in ONNX: {_told(error)}") from None
    complete_inputs(file, inputs)


def _served(torch: Any, module: Any, target: Target, names: Sequence[str]) -> Any:
    """The student with the end that clients see, and inputs in the order of the signature."""
    types = {"FP16": torch.float16, "FP32": torch.float32, "FP64": torch.float64}
    whole = {"INT32": torch.int32, "INT64": torch.int64}

    class Served(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.student = module

        def forward(self, *inputs: Any) -> Any:
            answer = finish(self.student(**dict(zip(names, inputs, strict=True))), target)
            shown = answer.squeeze(1) if target.scalar else answer
            shown = shown.to(types[target.spec.datatype])
            if target.index is None:
                return shown
            place = answer.argmax(dim=1).to(whole[target.index.datatype])
            return (place, shown) if target.index_first else (shown, place)

    return Served()


def _examples(rows: Sequence[Row], axes: dict[str, list[int]]) -> dict[str, Array]:
    """A batch of three rows, no axis of which is so short that torch would take it for fixed."""
    chosen = [rows[place % len(rows)] for place in range(_ROWS)]
    batch = batch_of(chosen)
    for name, places in axes.items():
        wider = [(0, 2 if place in places and size < 2 else 0) for place, size in enumerate(batch[name].shape)]
        batch[name] = np.pad(batch[name], wider)
    return batch


def complete_inputs(file: Path, inputs: Sequence[TensorSpec]) -> None:
    """Inputs that the graph does not read are in it all the same, in their order: clients send them. Axes of variable
    size are called alike, whatever torch called them.
    """
    import onnx
    from onnx import helper

    model = onnx.load(str(file))
    there = {one.name: one for one in model.graph.input}
    wanted = []
    for spec in inputs:
        if spec.name in there:
            wanted.append(there[spec.name])
            continue
        axes: list[Any] = [
            "batch",
            *(axis if axis >= 0 else f"{spec.name}_{n}" for n, axis in enumerate(spec.row_shape)),
        ]
        wanted.append(
            helper.make_tensor_value_info(spec.name, getattr(onnx.TensorProto, ONNX_TYPES[spec.datatype]), axes)
        )
    if [one.name for one in model.graph.input] != [one.name for one in wanted]:
        del model.graph.input[:]
        model.graph.input.extend(wanted)
        onnx.save(model, str(file))


def _told(error: BaseException) -> str:
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text = f"{error}"
    return f"{type(error).__name__}: {' '.join(_COLOURS.sub('', text).split())[:_SHOWN]}"
