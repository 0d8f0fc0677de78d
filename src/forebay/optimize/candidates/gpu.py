"""Half precision on an NVIDIA GPU: by ONNX Runtime's CUDA kernels, or by TensorRT. Written by the documentation, not
run: no machine of this project has a GPU. What is served from a GPU is compared with the original on the CPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnxruntime as ort

from forebay.core.errors import SetupError
from forebay.models.artefact import ServedWith
from forebay.models.source import open_source
from forebay.optimize.candidates.port import FILE, NETWORKS, Artefact, GraphRecipe, NotApplicableError, Work
from forebay.optimize.graphs import prepare
from forebay.optimize.samples import batch_of, length_of
from forebay.optimize.speed import SIZES
from forebay.runtimes.onnx_devices import CUDA, TENSORRT, engines_folder
from forebay.runtimes.port import Runtime, load_runtime

CUDA_DEVICE, TENSORRT_DEVICE = "cuda:0", "tensorrt:0"
_SIGNS = ("nvidia0", "nvidiactl", "dxg")
"""Entries of /dev that a driver makes; the last is that of WSL."""


class Fp16(GraphRecipe):
    """Weights and arithmetic in float16; inputs and outputs stay float32."""

    name = "fp16"
    meaning = "float16 on an NVIDIA GPU (CUDA)"
    kinds = NETWORKS
    extra = "gpu"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx

        require(CUDA)
        assert work.graph is not None
        onnx.save(to_half(onnx.load(str(work.graph))), str(work.folder / FILE))
        served_with = ServedWith(device=CUDA_DEVICE)
        _opened(work.folder / FILE, served_with)
        return Artefact(FILE, served_with=served_with)


class Tensorrt(GraphRecipe):
    """TensorRT in float16 through ONNX Runtime. Its engines are built here, for batches from one short row up to the
    largest that is timed of the longest, and are kept beside the model.
    """

    name = "tensorrt"
    meaning = "TensorRT in float16 on an NVIDIA GPU"
    kinds = NETWORKS
    extra = "gpu"
    isa_bound = False

    def build(self, work: Work) -> Artefact:
        """See `Candidate.build`."""
        import onnx

        require(TENSORRT)
        assert work.graph is not None
        file = work.folder / FILE
        onnx.save(prepare(work.graph), str(file))  # TensorRT wants the shapes of what it takes over
        engines = engines_folder(file)
        engines.mkdir()
        served_with = ServedWith(device=TENSORRT_DEVICE, inference_precision="fp16")
        runtime = _opened(file, served_with)
        work.progress("building engines")
        rows = sorted(work.calibration, key=length_of)
        runtime.run(batch_of(rows[:1]), 1)
        runtime.run(batch_of([rows[-1]] * max(SIZES)), max(SIZES))
        built = len(list(engines.glob("*.engine")))
        if not built:
            raise NotApplicableError("TensorRT takes no part of this graph")
        return Artefact(FILE, f"{built} engines", served_with=served_with)


def require(provider: str) -> None:
    """Raises `NotApplicableError` without a GPU, `ImportError` where ONNX Runtime is built without the provider."""
    if not gpu_here():
        raise NotApplicableError("there is no NVIDIA GPU on this machine")
    if provider not in ort.get_available_providers():
        raise ImportError(f"this onnxruntime has no {provider}")


def gpu_here(devices: Path = Path("/dev")) -> bool:
    """Whether a driver of NVIDIA's is at work."""
    return any((devices / sign).exists() for sign in _SIGNS) or shutil.which("nvidia-smi") is not None


def to_half(model: Any) -> Any:
    """The graph in float16 between its inputs and its outputs, which stay as they are. Values that float16 lacks become
    its nearest.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    half.topological_sort()  # the casts of inputs stand behind what reads them
    return half.model


def _opened(file: Path, served_with: ServedWith) -> Runtime:
    try:
        return load_runtime(open_source(str(file)), served_with.device, 1, served_with.options())
    except SetupError as error:
        raise NotApplicableError(error.message) from None
