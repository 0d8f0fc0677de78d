"""OpenVINO models (model.xml with its model.bin) through OpenVINO's CPU device.

It computes in float32 unless the model's settings say otherwise (`inference_precision = "bf16"`): left to itself,
OpenVINO would round to bfloat16 on processors that have it, and the answers would not be those that were measured.
INT64 and UINT64 are computed as 32 bits and FP64 as FP32, whatever is asked: a value beyond 32 bits is refused. Text is
not served: OpenVINO 2026.4 writes past its memory when an output of text comes and goes.

Source: https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forebay.core.errors import ExecutionError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes.port import NO_OPTIONS, is_out_of_memory, load_error, missing_library

_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_NARROWED = ("INT64", "UINT64")
_LEAST, _MOST = -(1 << 31), (1 << 31) - 1


class OpenvinoRuntime:
    """One compiled model and one request of it, which copies what it is given and what it gives."""

    platform = "openvino_ir"
    settings: Mapping[str, Any] = {}  # a file brings no class attributes

    def __init__(self, source: ModelSource, device: str, threads: int, options: LoadOptions = NO_OPTIONS) -> None:
        if device != "cpu":
            raise load_error(source, f"device {device!r} is not usable for OpenVINO models; write cpu")
        if options.inference_precision not in _PRECISIONS:
            raise load_error(
                source,
                f"inference_precision = {options.inference_precision!r} is for TensorRT; OpenVINO models are computed "
                f"in {' or '.join(_PRECISIONS)}",
            )
        try:
            import openvino
        except ImportError as error:
            raise missing_library(source, error, "openvino") from error
        core = openvino.Core()
        try:
            # A mapped file that is replaced in place would change under a model that is served from it.
            core.set_property({"ENABLE_MMAP": False})
            model = core.read_model(source.path)
        except Exception as error:
            raise load_error(source, f"OpenVINO cannot load {source.path}: {_one_line(error)}") from error
        self.signature = signature_of(source, model)
        try:
            compiled = core.compile_model(model, "CPU", configuration(threads, options))
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise load_error(source, f"OpenVINO cannot compile {source.path}: {_one_line(error)}") from error
        self.note = _note(self.signature, compiled, options)
        self._names = [spec.name for spec in self.signature.inputs]
        self._narrowed = [spec for spec in self.signature.inputs if spec.datatype in _NARROWED]

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """See `Runtime.run`. Nothing of `inputs` is kept, and no later run changes what is returned."""
        for spec in self._narrowed:
            _check_narrow(spec, inputs[spec.name])
        given = {index: inputs[name] for index, name in enumerate(self._names)}
        try:
            # Not infer(): with one thread OpenVINO 2026.4 loses what an operator raises there (axes that do not fit),
            # and the outputs of the run before stand as the answer.
            self._request.start_async(given, share_inputs=False)
            self._request.wait()
        except Exception as error:
            code = "out_of_memory" if is_out_of_memory(error) else "model_error"
            raise ExecutionError(_one_line(error), code=code) from error
        return [tensor.data.copy() for tensor in self._request.output_tensors]

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """An OpenVINO model carries none."""
        return ()


def configuration(threads: int, options: LoadOptions) -> dict[str, Any]:
    """Properties of OpenVINO's CPU device."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[options.inference_precision],
        # Each instance would pin its threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
        # Else it uses fewer threads than it is told, one a physical core.
        "ENABLE_HYPER_THREADING": True,
    }


def _check_narrow(spec: TensorSpec, array: Array) -> None:
    if array.size and (int(array.max()) > _MOST or int(array.min()) < _LEAST):
        value = next(value for value in array.reshape(-1).tolist() if not _LEAST <= value <= _MOST)
        raise ExecutionError(
            f"input {spec.name!r} holds {value}: OpenVINO computes {spec.datatype} as 32 bits, so it must be from "
            f"{_LEAST} to {_MOST}"
        )


def _note(signature: Signature, compiled: Any, options: LoadOptions) -> str:
    notes = []
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != _PRECISIONS[options.inference_precision]:
        notes.append(f"computes in {used}: this processor has no {options.inference_precision}")
    elif options.inference_precision != "fp32":
        notes.append(f"computes in {options.inference_precision}")
    if wide := [spec.name for spec in (*signature.inputs, *signature.outputs) if spec.datatype == "FP64"]:
        notes.append(f"OpenVINO computes FP64 ({', '.join(wide)}) as FP32")
    return "; ".join(notes)


def signature_of(source: ModelSource, model: Any) -> Signature:
    """The signature as the file declares it. It batches if the leading axis of all inputs and outputs is variable."""
    inputs, outputs = list(model.inputs), list(model.outputs)
    for port in (*inputs, *outputs):
        if port.partial_shape.rank.is_dynamic:
            raise load_error(
                source,
                f"{_name(port)!r} has any number of axes, which the protocol cannot say; "
                "give it a shape with model.reshape() before openvino.save_model",
            )
    batched = bool(inputs) and all(
        len(port.partial_shape) and port.partial_shape[0].is_dynamic for port in (*inputs, *outputs)
    )
    return Signature(
        tuple(_spec(source, port, batched) for port in inputs),
        tuple(_spec(source, port, batched) for port in outputs),
        batched,
    )


def _spec(source: ModelSource, port: Any, batched: bool) -> TensorSpec:
    kind = port.element_type.get_type_name()
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise load_error(
            source,
            f"{_name(port)!r} is {kind}, which is not served from OpenVINO models; "
            f"convert it in the model to one of {', '.join(_DATATYPES.values())}",
        )
    shape = tuple(-1 if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)
    return TensorSpec(_name(port), datatype, shape[1:] if batched else shape)


def _name(port: Any) -> str:
    """A tensor may have several names, in no order, or none: then its node's name is left."""
    own = str(port.node.get_friendly_name())
    names = sorted(port.names)
    return own if own in names or not names else str(names[0])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
