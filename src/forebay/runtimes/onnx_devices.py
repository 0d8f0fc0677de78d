"""What a device means to ONNX Runtime: `cpu`, `cuda:0`, or `tensorrt:0`. Nothing ever falls back to another device
unsaid.

`cuda:0` computes FP32 as FP32 (TF32 is off). `tensorrt:0` computes what TensorRT knows with it, by
`inference_precision = "fp16"` in half precision, and leaves the rest of the graph to CUDA. TensorRT builds an engine
when it first sees a shape, which takes seconds to minutes; if there is a folder `STEM.engines` beside the model, they
are kept in it and read from it. Written by the documentation, not run: no machine of this project has a GPU.

Sources: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from forebay.core.errors import SetupError
from forebay.models.source import LoadOptions, ModelSource

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PROVIDERS = {"cpu": (CPU,), "cuda": (CUDA, CPU), "tensorrt": (TENSORRT, CUDA, CPU)}
_LIBRARIES = {"cuda": "CUDA 12 or 13 and cuDNN 9", "tensorrt": "TensorRT 10, CUDA and cuDNN"}


@dataclass(frozen=True)
class Providers:
    """Providers of ONNX Runtime, the first one first, and the options of each."""

    names: Sequence[str]
    options: Sequence[dict[str, str]]


def engines_folder(model: Path) -> Path:
    """Where TensorRT's engines of a model file are kept, if that folder is there."""
    return model.with_suffix(".engines")


def providers_for(source: ModelSource, device: str, options: LoadOptions) -> Providers:
    """What a device asks of ONNX Runtime. Raises `SetupError` (`model_load_error`) for one that there is not, or that
    this build of ONNX Runtime lacks.
    """
    kind, _, number = device.partition(":")
    number = number or "0"
    names = _PROVIDERS.get(kind)
    if names is None or not number.isdecimal() or (kind == "cpu" and device != "cpu"):
        raise _error(source, f"device {device!r} is not usable for ONNX files; write cpu, cuda:0 or tensorrt:0")
    if options.inference_precision != "fp32" and (kind, options.inference_precision) != ("tensorrt", "fp16"):
        raise _error(
            source,
            f"inference_precision = {options.inference_precision!r} does not go with an ONNX file on {device}: bf16 is "
            'for OpenVINO models, fp16 for devices = ["tensorrt:0"]; leave it away',
        )
    if lacking := [name for name in names if name not in ort.get_available_providers()]:
        raise _error(
            source,
            f"device {device!r} is not usable: this onnxruntime has no {lacking[0]}; pip uninstall onnxruntime, then "
            "pip install onnxruntime-gpu (both are one folder)",
        )
    return Providers(names, [_options(name, number, source, options) for name in names])


def check_kept(source: ModelSource, device: str, session: Any) -> None:
    """Raises `SetupError` (`model_load_error`) where ONNX Runtime left out the provider of a device, as it does with no
    more than a line on stderr when a library is missing; from here on an error is an error, never a fall back.
    """
    kind = device.partition(":")[0]
    wanted = _PROVIDERS[kind][0]
    kept = session.get_providers()
    if wanted not in kept:
        raise _error(
            source,
            f"device {device!r} is not usable: ONNX Runtime could not start {wanted} and took {', '.join(kept)}; it "
            f"needs {_LIBRARIES[kind]}, of the versions that it was built for, and a driver that is as new",
        )
    session.disable_fallback()


def preload(device: str) -> None:
    """Loads CUDA's libraries from NVIDIA's Python packages, where they are; the linker does not look there."""
    if device != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _options(name: str, number: str, source: ModelSource, options: LoadOptions) -> dict[str, str]:
    if name == CPU:
        return {}
    if name == CUDA:
        return {"device_id": number, "use_tf32": "0"}
    chosen = {"device_id": number, "trt_fp16_enable": "1" if options.inference_precision == "fp16" else "0"}
    engines = engines_folder(Path(source.path))
    if engines.is_dir():
        chosen |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(engines),
        }
    return chosen


def _error(source: ModelSource, message: str) -> SetupError:
    return SetupError(f"model {source.name}: {message}", code="model_load_error")
