"""ONNX files through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes.onnx_devices import check_kept, preload, providers_for
from forebay.runtimes.port import NO_OPTIONS, is_out_of_memory

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """One ONNX Runtime session, single-threaded unless told otherwise."""

    platform = "onnxruntime_onnx"
    settings: Mapping[str, Any] = {}  # a file brings no class attributes
    note = ""

    def __init__(self, source: ModelSource, device: str, threads: int, load_options: LoadOptions = NO_OPTIONS) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning pool burns a core while the instance waits for its next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = providers_for(source, device, load_options)
        preload(device)
        try:
            self._session = ort.InferenceSession(source.path, options, list(providers.names), list(providers.options))
        except Exception as error:
            raise SetupError(
                f"model {source.name}: ONNX Runtime cannot load {source.path}: {error}", code="model_load_error"
            ) from error
        check_kept(source, device, self._session)
        self.signature = signature_of(source, self._session)
        self._names = [spec.name for spec in self.signature.outputs]
        self._texts = [spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"]

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """See `Runtime.run`. BYTES inputs are decoded as UTF-8, since ONNX strings are text."""
        for name in self._texts:
            inputs[name] = _as_text(inputs[name])
        try:
            outputs: list[Array] = self._session.run(self._names, inputs)
        except Exception as error:
            code = "out_of_memory" if is_out_of_memory(error) else "model_error"
            raise ExecutionError(str(error), code=code) from error
        return outputs

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """An ONNX file carries none."""
        return ()


def _as_text(array: Array) -> Array:
    text = array.copy()
    flat = text.reshape(-1)
    for index, value in enumerate(flat.tolist()):
        if isinstance(value, bytes):
            flat[index] = value.decode("utf-8", "replace")
    return text


def signature_of(source: ModelSource, session: Any) -> Signature:
    """The signature as the file declares it. It batches if the leading axis of all inputs and outputs is variable."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    batched = all(node.shape and not isinstance(node.shape[0], int) for node in [*inputs, *outputs]) and bool(inputs)
    return Signature(
        tuple(_spec(source, node, batched) for node in inputs),
        tuple(_spec(source, node, batched) for node in outputs),
        batched,
    )


def _spec(source: ModelSource, node: Any, batched: bool) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise SetupError(
            f"model {source.name}: {node.name!r} is {node.type}, which the protocol cannot carry; "
            f"cast it in the graph to one of {', '.join(_DATATYPES.values())}",
            code="model_load_error",
        )
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
    return TensorSpec(node.name, datatype, shape[1:] if batched else shape)
