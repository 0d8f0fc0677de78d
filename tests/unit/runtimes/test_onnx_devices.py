"""Devices of ONNX files: what each asks of ONNX Runtime, and that nothing falls back to another device unsaid. Run
without a GPU: what CUDA and TensorRT compute is not seen here.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime as ort
import pytest
from tests.contract.models import sum_and_difference

from forebay.core.errors import SetupError
from forebay.models.source import LoadOptions, ModelSource
from forebay.runtimes.onnx_devices import CPU, CUDA, TENSORRT, engines_folder, providers_for
from forebay.runtimes.port import load_runtime

FP16 = LoadOptions(inference_precision="fp16")


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return sum_and_difference(tmp_path, "onnx")


@pytest.fixture
def built_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says that this build has CUDA and TensorRT, which it has not: a session then goes without, as with a driver that
    is missing.
    """
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])


@pytest.mark.parametrize(
    ("device", "mend"),
    [
        ("cuda:7", "has no CUDAExecutionProvider; pip uninstall onnxruntime, then pip install onnxruntime-gpu"),
        ("tensorrt:0", "has no TensorrtExecutionProvider; pip uninstall onnxruntime"),
        ("tpu", "write cpu, cuda:0 or tensorrt:0"),
        ("cpu:1", "write cpu, cuda:0 or tensorrt:0"),
        ("cuda:first", "write cpu, cuda:0 or tensorrt:0"),
    ],
)
def test_a_device_that_is_not_there_is_told_with_the_mend(source: ModelSource, device: str, mend: str) -> None:
    with pytest.raises(SetupError, match=re.escape(f"device {device!r} is not usable")) as caught:
        load_runtime(source, device, 1)
    assert caught.value.code == "model_load_error"
    assert mend in caught.value.message


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(
    ("device", "lacking"), [("cuda:0", "CUDA 12 or 13 and cuDNN 9"), ("tensorrt:0", "TensorRT 10, CUDA and cuDNN")]
)
@pytest.mark.usefixtures("built_for_gpu")
def test_a_provider_that_onnx_runtime_leaves_out_is_an_error_and_no_slow_answer(
    source: ModelSource, device: str, lacking: str
) -> None:
    with pytest.raises(SetupError) as caught:
        load_runtime(source, device, 1)
    assert "could not start" in caught.value.message
    assert "and took CPUExecutionProvider" in caught.value.message
    assert lacking in caught.value.message


@pytest.mark.usefixtures("built_for_gpu")
def test_cuda_computes_float32_as_float32_on_the_device_asked_for(source: ModelSource) -> None:
    asked = providers_for(source, "cuda:1", LoadOptions())
    assert list(zip(asked.names, asked.options, strict=True)) == [
        (CUDA, {"device_id": "1", "use_tf32": "0"}),
        (CPU, {}),
    ]
    assert providers_for(source, "cuda", LoadOptions()).options[0]["device_id"] == "0"


@pytest.mark.usefixtures("built_for_gpu")
def test_tensorrt_leaves_to_cuda_what_it_does_not_know_and_keeps_engines_only_where_there_is_a_folder(
    source: ModelSource,
) -> None:
    asked = providers_for(source, "tensorrt:1", FP16)
    assert list(asked.names) == [TENSORRT, CUDA, CPU]
    assert asked.options[0] == {"device_id": "1", "trt_fp16_enable": "1"}
    assert asked.options[1]["device_id"] == "1"
    assert providers_for(source, "tensorrt:0", LoadOptions()).options[0]["trt_fp16_enable"] == "0"
    engines = engines_folder(Path(source.path))
    engines.mkdir()
    kept = providers_for(source, "tensorrt:0", FP16).options[0]
    assert kept["trt_engine_cache_enable"] == "1"
    assert kept["trt_engine_cache_path"] == kept["trt_timing_cache_path"] == str(engines)


@pytest.mark.usefixtures("built_for_gpu")
@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp16"), ("cpu", "bf16"), ("cuda:0", "fp16")])
def test_a_precision_is_refused_where_it_would_be_ignored(source: ModelSource, device: str, precision: str) -> None:
    options = LoadOptions(inference_precision=precision)  # type: ignore[arg-type]
    with pytest.raises(
        SetupError, match=f"inference_precision = '{precision}' does not go with an ONNX file on {device}"
    ):
        load_runtime(source, device, 1, options)


def test_on_the_cpu_an_error_is_an_error_too(source: ModelSource) -> None:
    runtime = load_runtime(source, "cpu", 1)
    assert runtime._session._enable_fallback is False  # type: ignore[attr-defined]
