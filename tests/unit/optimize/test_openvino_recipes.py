"""Recipes that OpenVINO serves: what they make, on real small models, as its runtime answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.unit.optimize.digits import cnn, digits, mlp, model_of
from tests.unit.optimize.test_recipes import answers, pictures, work_for

from forebay.core.tensors import Array
from forebay.models.artefact import isa_here
from forebay.models.source import open_source
from forebay.optimize.candidates import openvino
from forebay.optimize.candidates.openvino import BF16_FLAGS, Openvino, OpenvinoBf16
from forebay.optimize.candidates.port import Artefact, NotApplicableError
from forebay.runtimes.port import Runtime, load_runtime

HAS_BF16 = bool(set(BF16_FLAGS) & set(isa_here()))


def served(folder: Path, artefact: Artefact) -> Runtime:
    needed = artefact.served_with
    return load_runtime(open_source(str(folder / artefact.model)), needed.device, 1, needed.options())


def ask(runtime: Runtime, x: Array) -> Array:
    (found,) = runtime.run({"x": x}, len(x))
    return found


@pytest.mark.parametrize(("model", "shape"), [(mlp(), (64,)), (cnn(), (1, 8, 8))])
def test_in_float32_openvino_answers_what_the_graph_answers(
    tmp_path: Path, model: onnx.ModelProto, shape: tuple[int, ...]
) -> None:
    rows, held = pictures(shape)
    work = work_for(tmp_path, model, rows)
    artefact = Openvino().build(work)
    assert sorted(file.name for file in work.folder.iterdir()) == ["model.bin", "model.xml"]
    runtime = served(work.folder, artefact)
    assert [(spec.name, spec.datatype, spec.row_shape) for spec in runtime.signature.inputs] == [("x", "FP32", shape)]
    assert [(spec.name, spec.row_shape) for spec in runtime.signature.outputs] == [("logits", (10,))]
    assert runtime.signature.batched
    wanted = answers(tmp_path / "original.onnx", held)
    np.testing.assert_allclose(ask(runtime, held), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_outputs_keep_their_names_where_openvino_has_others_for_the_same_tensor(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["zebra"]),
        helper.make_node("Identity", ["a"], ["ant"]),
    ]
    twice = model_of(nodes, {}, {"x": ["N", 64]}, {"zebra": ["N", 64], "ant": ["N", 64]})
    rows, held = pictures((64,))
    work = work_for(tmp_path, twice, rows)
    runtime = served(work.folder, Openvino().build(work))
    assert [spec.name for spec in runtime.signature.outputs] == ["zebra", "ant"]
    for found in runtime.run({"x": held}, len(held)):
        np.testing.assert_array_equal(found, held)


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16")
def test_in_bfloat16_the_setting_goes_with_the_artefact(tmp_path: Path) -> None:
    rows, held = pictures((64,))
    work = work_for(tmp_path, mlp(), rows)
    artefact = OpenvinoBf16().build(work)
    assert artefact.served_with.inference_precision == "bf16"
    wanted, found = answers(tmp_path / "original.onnx", held), ask(served(work.folder, artefact), held)
    assert 1e-4 < float(np.abs(found - wanted).max() / np.abs(wanted).max()) < 0.05
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.97


def test_a_processor_without_bfloat16_is_told_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "isa_here", lambda: ("x86_64", "avx2", "avx512_vnni"))
    with pytest.raises(NotApplicableError, match="has no bfloat16 instructions: neither avx512_bf16 nor amx_bf16"):
        OpenvinoBf16().build(work_for(tmp_path, mlp(), pictures((64,))[0]))


def test_an_operator_that_openvino_lacks_is_named_in_one_line(tmp_path: Path) -> None:
    strange: Any = model_of([helper.make_node("Relu", ["x"], ["logits"])], {}, {"x": ["N", 64]}, {"logits": ["N", 64]})
    strange.graph.node[0].op_type, strange.graph.node[0].domain = "Dream", "of.nobody"
    strange.opset_import.append(helper.make_opsetid("of.nobody", 1))
    with pytest.raises(NotApplicableError, match=r"OpenVINO cannot read the graph: .*Dream") as caught:
        Openvino().build(work_for(tmp_path, strange, digits()[0][:8]))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
