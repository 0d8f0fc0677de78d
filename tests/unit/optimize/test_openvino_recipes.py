"""Recipes that OpenVINO serves: what they make, on real small models, as its runtime answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as openvino_library
import pytest
from onnx import helper
from tests.unit.optimize.digits import cnn, digits, mlp, model_of
from tests.unit.optimize.test_folders import HEADS, WORDS, bert_weights
from tests.unit.optimize.test_recipes import answers, harmed, pictures, work_for

from forebay.core.tensors import Array
from forebay.models.source import open_source
from forebay.optimize.agreement import cosine
from forebay.optimize.candidates import openvino
from forebay.optimize.candidates.openvino import Openvino, OpenvinoBf16, has_bf16
from forebay.optimize.candidates.openvino8 import (
    OpenvinoInt8,
    OpenvinoInt8Excluded,
    OpenvinoWeights8,
    nncf_library,
)
from forebay.optimize.candidates.port import Artefact, Candidate, NotApplicableError
from forebay.optimize.candidates.static8 import Static8Excluded
from forebay.optimize.judge import Judge
from forebay.optimize.report import Goals
from forebay.optimize.samples import batch_of
from forebay.optimize.sources.bert_graph import BertShape, write_bert
from forebay.runtimes.port import Runtime, load_runtime


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


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
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


RECIPES = [OpenvinoWeights8(), OpenvinoInt8(), OpenvinoInt8Excluded()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_network_in_8_bits_names_the_same_numbers(tmp_path: Path, recipe: Candidate) -> None:
    rows, held = pictures((64,))
    work = work_for(tmp_path, mlp(), rows)
    artefact = recipe.build(work)
    wanted, found = answers(tmp_path / "original.onnx", held), ask(served(work.folder, artefact), held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.97
    assert not np.array_equal(wanted, found)
    assert sorted(file.name for file in work.folder.iterdir()) == ["model.bin", "model.xml"]
    assert (work.folder / "model.bin").stat().st_size < (tmp_path / "original.onnx").stat().st_size * 0.6


@pytest.mark.parametrize("recipe", [OpenvinoInt8(), OpenvinoInt8Excluded()], ids=lambda recipe: recipe.name)
def test_convolutions_are_in_8_bits(tmp_path: Path, recipe: Candidate) -> None:
    rows, held = pictures((1, 8, 8))
    work = work_for(tmp_path, cnn(), rows)
    artefact = recipe.build(work)
    wanted, found = answers(tmp_path / "original.onnx", held), ask(served(work.folder, artefact), held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.97
    model: Any = openvino_library.Core().read_model(work.folder / "model.xml")
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("FakeQuantize") + kinds.count("Convert") >= 4


def attention() -> Any:
    return write_bert(bert_weights(), BertShape(heads=HEADS), "bert", "tests")


@pytest.mark.parametrize("recipe", [OpenvinoWeights8(), OpenvinoInt8()], ids=lambda recipe: recipe.name)
def test_a_row_of_a_transformer_is_the_same_in_any_company(tmp_path: Path, recipe: Candidate) -> None:
    graph = tmp_path / "original.onnx"
    onnx.save(attention(), str(graph))
    random = np.random.default_rng(0)
    rows = [{"input_ids": random.integers(1, WORDS, n), "attention_mask": np.ones(n, np.int64)} for n in range(2, 16)]
    work = replace(work_for(tmp_path, attention(), digits()[0][:1]), calibration=rows)
    work = replace(work, judge=Judge(Goals(metric="cosine", max_drop=0.01), rows, [], "", "embedding"))
    runtime = served(work.folder, recipe.build(work))
    alone = [runtime.run(batch_of([row]), 1)[0][0] for row in rows]
    together = runtime.run(batch_of(rows), len(rows))[0]
    for mine, theirs in zip(alone, together, strict=True):
        np.testing.assert_array_equal(mine, theirs[: len(mine)])
    wanted = work.judge.answers(graph, len(rows))
    assert min(cosine(a, b) for a, b in zip(wanted, alone, strict=True)) > 0.95


def test_layers_are_ranked_and_left_out_once_for_onnx_runtime_and_openvino(tmp_path: Path) -> None:
    rows, held = pictures((64,))
    work = work_for(tmp_path, harmed(), rows, max_drop=0.05)
    first = Static8Excluded().build(work)
    said: list[str] = []
    (tmp_path / "again").mkdir()
    work = replace(work, folder=tmp_path / "again", progress=said.append)
    second = OpenvinoInt8Excluded().build(work)
    assert [text for text in said if "bfloat16" not in text] == []
    assert (second.note, list(second.layers)) == (first.note, list(first.layers))
    assert [(layer.name, layer.excluded) for layer in second.layers] == [("second", True), ("first", False)]
    wanted, found = answers(tmp_path / "original.onnx", held), ask(served(work.folder, second), held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.95
    assert second.served_with.inference_precision == "fp32", "bfloat16 would ruin what 8 bits would ruin"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_says_where_it_has_nothing_to_do(tmp_path: Path, recipe: Candidate) -> None:
    nothing = model_of([helper.make_node("Relu", ["x"], ["logits"])], {}, {"x": ["N", 64]}, {"logits": ["N", 64]})
    with pytest.raises(NotApplicableError):
        recipe.build(work_for(tmp_path, nothing, digits()[0][:8]))


def test_nncf_is_told_to_report_to_nobody_that_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNCF_CI", raising=False)
    nncf = nncf_library()
    assert nncf.definitions.NNCF_CI_ENV_VAR_NAME in os.environ
