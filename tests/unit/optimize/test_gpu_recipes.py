"""Recipes for GPUs, as far as they can be seen without one: the graph in float16 computed on the CPU, and refusals that
say what is missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from tests.unit.optimize.digits import SEEN, cnn, digits, mlp
from tests.unit.optimize.test_folders import HEADS, IDS, MASK, bert_weights
from tests.unit.optimize.test_recipes import pictures, work_for

from forebay.core.tensors import Array
from forebay.optimize.candidates import gpu
from forebay.optimize.candidates.gpu import Fp16, Tensorrt, gpu_here, to_half
from forebay.optimize.candidates.port import Candidate, NotApplicableError
from forebay.optimize.sources.bert_graph import BertShape, write_bert
from forebay.runtimes.onnx_devices import CPU, CUDA, TENSORRT


def answer(model: onnx.ModelProto, feed: dict[str, Array]) -> Array:
    (found,) = ort.InferenceSession(model.SerializeToString(), providers=[CPU]).run(None, feed)
    return np.asarray(found)


def types_of(model: onnx.ModelProto) -> tuple[set[int], set[int]]:
    """Of inputs and outputs, and of weights."""
    ends = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    return ends, {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}


@pytest.mark.parametrize(("model", "shape"), [(mlp(), (64,)), (cnn(), (1, 8, 8))])
def test_in_float16_weights_are_half_and_inputs_and_outputs_are_whole(
    model: onnx.ModelProto, shape: tuple[int, ...]
) -> None:
    x, _ = digits()
    held = x[SEEN : SEEN + 300].reshape(-1, *shape)
    wanted = answer(model, {"x": held})
    half = to_half(model)
    onnx.checker.check_model(half)
    assert types_of(half) == ({TensorProto.FLOAT}, {TensorProto.FLOAT16})
    found = answer(half, {"x": held})
    assert found.dtype == np.float32
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert 1e-6 < error < 5e-3, "rounded to 11 bits, and no more than that"


def test_a_transformer_in_float16_answers_the_same() -> None:
    model = write_bert(bert_weights(), BertShape(heads=HEADS), "bert", "tests")
    feed = {"input_ids": IDS, "attention_mask": MASK}
    wanted = answer(model, feed)
    half = to_half(model)
    found = answer(half, feed)
    assert types_of(half)[1] == {TensorProto.FLOAT16}
    assert 1e-6 < float(np.abs(found - wanted).max() / np.abs(wanted).max()) < 1e-2


def test_a_graphics_driver_is_told_by_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not gpu_here(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert gpu_here(tmp_path)


@pytest.mark.parametrize("recipe", [Fp16(), Tensorrt()])
def test_without_a_gpu_that_is_the_reason(tmp_path: Path, recipe: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_here", lambda: False)
    with pytest.raises(NotApplicableError, match="there is no NVIDIA GPU on this machine"):
        recipe.build(work_for(tmp_path, mlp(), pictures((64,))[0]))


@pytest.mark.parametrize(("recipe", "provider"), [(Fp16(), CUDA), (Tensorrt(), TENSORRT)])
def test_an_onnx_runtime_without_the_provider_is_a_missing_library(
    tmp_path: Path, recipe: Candidate, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "gpu_here", lambda: True)
    with pytest.raises(ImportError, match=f"this onnxruntime has no {provider}"):
        recipe.build(work_for(tmp_path, mlp(), pictures((64,))[0]))
    assert recipe.extra == "gpu"


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(("recipe", "provider"), [(Fp16(), CUDA), (Tensorrt(), TENSORRT)])
def test_a_provider_that_does_not_start_makes_the_recipe_not_applicable(
    tmp_path: Path, recipe: Candidate, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "gpu_here", lambda: True)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    with pytest.raises(NotApplicableError, match=f"could not start {provider} and took {CPU}"):
        recipe.build(work_for(tmp_path, mlp(), pictures((64,))[0]))
