"""Exported programs of torch (.pt2 files of `torch.export.save`), run by torch's operators as they are.

The file is read as data: no pickle is loaded and no Python of the file's is run, see `torch_program`. Inputs have the
names of the arguments of forward(); outputs those of the keys where it returns a dictionary, else those of the graph.
The model batches if the leading axis of all of them is dynamic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebay.core.errors import ExecutionError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import ModelSource
from forebay.runtimes.port import is_out_of_memory, load_error, missing_library

if TYPE_CHECKING:
    from forebay.runtimes.torch_program import Program, Value

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


class TorchRuntime:
    """One exported program. The number of threads is that of the process, which an instance has for itself."""

    platform = "pytorch_export"
    settings: Mapping[str, Any] = {}  # a file brings no class attributes
    note = ""

    def __init__(self, source: ModelSource, device: str, threads: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_library(source, error, "torch") from error
        from forebay.runtimes.torch_program import NotReadableError, read_program

        _check_device(source, device, torch)
        torch.set_num_threads(threads)
        try:
            program = read_program(Path(source.path), device)
            self.signature = signature_of(source, program)
        except NotReadableError as error:
            raise load_error(source, f"cannot serve {source.path}: {error}") from error
        except Exception as error:  # whatever a file that is not as torch writes it makes the readers raise
            raise load_error(
                source, f"{source.path} is no program of torch.export.save: {type(error).__name__}: {error}"
            ) from error
        self._torch, self._call, self._device = torch, program.call, device
        self._copies = program.writes
        self._names = [spec.name for spec in self.signature.inputs]

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """See `Runtime.run`. Inputs are not copied where the program only reads them."""
        torch, given = self._torch, [inputs[name] for name in self._names]
        # torch knows no tensors that may not be written to.
        tensors = [torch.from_numpy(a.copy() if self._copies or not a.flags.writeable else a) for a in given]
        try:
            with torch.inference_mode():
                if self._device != "cpu":
                    tensors = [tensor.to(self._device) for tensor in tensors]
                outputs: list[Array] = [output.cpu().numpy() for output in self._call(*tensors)]
        except Exception as error:
            code = "out_of_memory" if is_out_of_memory(error) else "model_error"
            raise ExecutionError(f"{type(error).__name__}: {error}", code=code) from error
        # An output may be an input, or a view of one, whose memory belongs to the caller.
        return [o.copy() if any(np.may_share_memory(o, a) for a in given) else o for o in outputs]

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Those in the file are pickled, and not read."""
        return ()


def _check_device(source: ModelSource, device: str, torch: Any) -> None:
    if device == "cpu":
        return
    if device.partition(":")[0] == "cuda" and torch.cuda.is_available():
        return
    raise load_error(
        source,
        f"device {device!r} is not usable; this torch ({torch.__version__}) has "
        + ("cpu and cuda" if torch.cuda.is_available() else "cpu only"),
    )


def signature_of(source: ModelSource, program: Program) -> Signature:
    """The signature as the program was exported."""
    values = [*program.inputs, *program.outputs]
    batched = bool(program.inputs) and all(value.shape[:1] == (-1,) for value in values)
    return Signature(
        tuple(_spec(source, value, batched) for value in program.inputs),
        tuple(_spec(source, value, batched) for value in program.outputs),
        batched,
    )


def _spec(source: ModelSource, value: Value, batched: bool) -> TensorSpec:
    datatype = _DATATYPES.get(value.dtype)
    if datatype is None:
        raise load_error(
            source,
            f"{value.name!r} is {value.dtype}, which the protocol cannot carry; "
            f"convert it in forward() to one of {', '.join(_DATATYPES.values())}",
        )
    return TensorSpec(value.name, datatype, value.shape[1:] if batched else value.shape)
