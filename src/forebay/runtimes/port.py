"""The Runtime port: one loaded copy of a model, as its instance sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.artefact import Known, check_artefact
from forebay.models.signature import Signature
from forebay.models.source import LoadOptions, ModelSource

NO_OPTIONS = LoadOptions()
_OUT_OF_MEMORY = (
    "Failed to allocate",  # ONNX Runtime, OpenVINO
    "is smaller than requested bytes",  # its CUDA arena
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",  # torch on a CPU
    "bad_alloc",
    "bad allocation",
)


class Runtime(Protocol):
    """A loaded model. It lives in one process and is called by one thread; it owns its library's memory."""

    platform: str
    """The name that the protocol's metadata shows, such as `onnxruntime_onnx`."""
    signature: Signature
    settings: Mapping[str, Any]
    """Settings that the model itself brings (class attributes); empty for files."""
    note: str
    """What the log should say of how the model is run; usually empty."""

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """Outputs in the order of the signature, each [rows, ...] where the model batches.

        Raises `ExecutionError`: `model_error`, `output_mismatch` or `out_of_memory`.
        """
        ...

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Rows that the model's author gave for warm-up: input name to one row's value. May be empty."""
        ...


def load_runtime(
    source: ModelSource, device: str, threads: int, options: LoadOptions = NO_OPTIONS, known: Known | None = None
) -> Runtime:
    """Load a model by its runtime's name. Raises `SetupError` (`model_load_error`) that names file and cause, also for
    an artefact of `forebay optimize` that was not made for what is here.

    known: what was found of its files before, see `check_artefact`.
    """
    note = check_artefact(source, device, options, known)
    runtime = _loaded(source, device, threads, options, known)
    if note is not None:
        runtime.signature = note.refusing(runtime.signature)
    return runtime


def _loaded(source: ModelSource, device: str, threads: int, options: LoadOptions, known: Known | None) -> Runtime:
    if options.inference_precision != "fp32" and source.runtime not in ("openvino", "onnx"):
        raise load_error(
            source,
            f"inference_precision = {options.inference_precision!r} is for OpenVINO models and TensorRT, this is a "
            f"model of {source.runtime}; leave it away",
        )
    if source.runtime == "onnx":
        from forebay.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(source, device, threads, options)
    if source.runtime == "python":
        from forebay.runtimes.python import PythonRuntime

        return PythonRuntime(source, device, threads, known.read if known is not None else None)
    if source.runtime == "xgboost":
        from forebay.runtimes.xgboost import XgboostRuntime

        return XgboostRuntime(source, device, threads, options)
    if source.runtime == "lightgbm":
        from forebay.runtimes.lightgbm import LightgbmRuntime

        return LightgbmRuntime(source, device, threads, options)
    if source.runtime == "sklearn":
        from forebay.runtimes.sklearn import SklearnRuntime

        return SklearnRuntime(source, device, threads, options)
    if source.runtime == "openvino":
        from forebay.runtimes.openvino import OpenvinoRuntime

        return OpenvinoRuntime(source, device, threads, options)
    if source.runtime == "torch":
        from forebay.runtimes.torch import TorchRuntime

        return TorchRuntime(source, device, threads)
    raise SetupError(f"model {source.name}: no runtime is called {source.runtime!r}", code="model_load_error")


def load_error(source: ModelSource, message: str) -> SetupError:
    """`model_load_error` that names the model."""
    return SetupError(f"model {source.name}: {message}", code="model_load_error")


def missing_library(source: ModelSource, error: ImportError, extra: str) -> SetupError:
    """What to install where an extra is missing."""
    return load_error(
        source, f'{source.path} needs a library that is not here ({error}); pip install "forebay[{extra}]"'
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's exception means that memory ran out (host or device), judged by type and known texts."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return any(sign in text for sign in _OUT_OF_MEMORY)
