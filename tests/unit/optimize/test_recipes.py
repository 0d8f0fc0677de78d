"""The recipes on real small models: what each makes, and what it keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from tests.unit.optimize.digits import SEEN, cnn, digits, mlp, model_of

from forebay.core.tensors import Array
from forebay.optimize.builder import open_candidate
from forebay.optimize.candidates.dynamic8 import Dynamic8
from forebay.optimize.candidates.fused import Fused
from forebay.optimize.candidates.port import Candidate, NotApplicableError, Work
from forebay.optimize.candidates.registry import REFERENCES
from forebay.optimize.candidates.static8 import Static8, Static8Excluded, Static8Filled
from forebay.optimize.candidates.weights8 import Weights8
from forebay.optimize.judge import Judge
from forebay.optimize.report import Goals
from forebay.optimize.smoothing import smooth


def work_for(folder: Path, model: Any, rows: Array, max_drop: float = 0.02) -> Work:
    graph = folder / "original.onnx"
    onnx.save(model, str(graph))
    calibration = [{"x": row} for row in rows]
    for name in ("made", "shared"):
        (folder / name).mkdir(exist_ok=True)
    judge = Judge(Goals(metric="top1", max_drop=max_drop), calibration, [], "", "logits")
    said: list[str] = []
    return Work(str(graph), graph, "onnx", calibration, folder / "made", folder / "shared", judge, said.append)


def answers(path: Path, x: Array) -> Array:
    (found,) = ort.InferenceSession(str(path)).run(None, {"x": x})
    return np.asarray(found)


def pictures(shape: tuple[int, ...]) -> tuple[Array, Array]:
    x, _ = digits()
    x = x.reshape(-1, *shape)
    return x[:64], x[SEEN : SEEN + 300]


@pytest.mark.parametrize("recipe", [Weights8(), Dynamic8(), Static8(), Static8Excluded(), Static8Filled()])
def test_a_network_in_8_bits_names_the_same_numbers(tmp_path: Path, recipe: Candidate) -> None:
    rows, held = pictures((64,))
    work = work_for(tmp_path, mlp(), rows)
    artefact = recipe.build(work)
    wanted, found = answers(tmp_path / "original.onnx", held), answers(work.folder / artefact.model, held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.97
    assert not np.array_equal(wanted, found)
    assert (work.folder / artefact.model).stat().st_size < (tmp_path / "original.onnx").stat().st_size * 0.6
    assert [file.name for file in work.folder.iterdir()] == ["model.onnx"]


def test_convolutions_stay_in_8_bits_from_one_to_the_next(tmp_path: Path) -> None:
    rows, held = pictures((1, 8, 8))
    work = work_for(tmp_path, cnn(), rows)
    artefact = Static8Excluded().build(work)
    assert {layer.name for layer in artefact.layers} == {"conv", "linear"}
    assert not any(layer.excluded for layer in artefact.layers)
    model = onnx.load(str(work.folder / artefact.model))
    read_by = {name: node.op_type for node in model.graph.node for name in node.input}
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    assert read_by[pool.output[0]] == "QuantizeLinear"
    wanted, found = answers(tmp_path / "original.onnx", held), answers(work.folder / artefact.model, held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.97


def harmed() -> Any:
    """The network with a column of its second weights a thousand times larger, undone behind the product: one layer
    that 8 bits ruin.
    """
    model = mlp()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    shift = np.float32(3e4)
    nodes = [
        *model.graph.node[:3],
        helper.make_node("Add", ["h3", "shift"], ["far"]),
        helper.make_node("MatMul", ["far", "w2"], ["h4"], name="second"),
        helper.make_node("Sub", ["h4", "undo"], ["h5"]),
        helper.make_node("Add", ["h5", "b2"], ["logits"]),
    ]
    # Rounded weights make the shift exact in floats, so that only the 8 bits of the activation hurt.
    w2 = (np.round(constants["w2"] * 64) / 64).astype(np.float32)
    constants |= {"w2": w2, "shift": shift, "undo": (shift * w2.sum(axis=0)).astype(np.float32)}
    return model_of(nodes, constants, {"x": ["N", 64]}, {"logits": ["N", 10]})


def test_the_layer_that_8_bits_ruin_is_found_and_left_out(tmp_path: Path) -> None:
    rows, held = pictures((64,))
    work = work_for(tmp_path, harmed(), rows, max_drop=0.05)
    artefact = Static8Excluded().build(work)
    assert [(layer.name, layer.excluded) for layer in artefact.layers] == [("second", True), ("first", False)]
    assert artefact.layers[0].error > 10 * artefact.layers[1].error
    wanted, found = answers(tmp_path / "original.onnx", held), answers(work.folder / artefact.model, held)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.95


def test_smoothing_changes_ranges_and_nothing_else() -> None:
    model = mlp()
    x, _ = digits()
    x = x[:40].copy()
    x[:, 20] *= 500  # the outlier that one range for all channels cannot bear
    smoothed = smooth(model, [{"x": row} for row in x], loud=False).model
    kinds = Counter(node.op_type for node in smoothed.graph.node)
    assert kinds["Mul"] >= 1
    plain, made = (ort.InferenceSession(one.SerializeToString()).run(None, {"x": x})[0] for one in (model, smoothed))
    np.testing.assert_allclose(plain, made, rtol=1e-3, atol=1e-3 * np.abs(plain).max())


def test_a_recipe_says_where_it_has_nothing_to_do(tmp_path: Path) -> None:
    nothing = model_of([helper.make_node("Relu", ["x"], ["logits"])], {}, {"x": ["N", 64]}, {"logits": ["N", 64]})
    rows, _ = pictures((64,))
    recipes: list[Candidate] = [Weights8(), Dynamic8(), Static8(), Static8Excluded(), Fused()]
    for number, recipe in enumerate(recipes):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(NotApplicableError):
            recipe.build(work_for(tmp_path / str(number), nothing, rows))


def linear(**attributes: Any) -> Any:
    """The network as torch writes it: `Gemm`, weights transposed."""
    model = mlp()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    constants |= {name: np.ascontiguousarray(constants[name].T) for name in ("w1", "w2")}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"], name="first", transB=1, **attributes),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "w2", "b2"], ["logits"], name="second", transB=1, **attributes),
    ]
    return model_of(nodes, constants, {"x": ["N", 64]}, {"logits": ["N", 10]})


def kinds_of(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(file)).graph.node)


@pytest.mark.parametrize(("model", "layers"), [(linear, 2), (cnn, 1), (mlp, 2)])
def test_dynamic_int8_computes_every_linear_layer_in_8_bits(tmp_path: Path, model: Any, layers: int) -> None:
    rows, _ = pictures((1, 8, 8) if model is cnn else (64,))
    work = work_for(tmp_path, model(), rows)
    artefact = Dynamic8().build(work)
    found = kinds_of(work.folder / artefact.model)
    assert found["MatMulInteger"] == found["DynamicQuantizeLinear"] == layers
    assert not found["Gemm"]
    assert not found["MatMul"]
    assert artefact.note == f"{layers} products in 8 bits"


def test_a_gemm_that_stays_in_floats_is_not_called_8_bits(tmp_path: Path) -> None:
    rows, _ = pictures((64,))
    with pytest.raises(NotApplicableError, match="floating point"):
        Dynamic8().build(work_for(tmp_path, linear(alpha=0.5), rows))


def test_a_matmul_that_stays_in_floats_is_not_called_8_bits(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["x3"]), helper.make_node("MatMul", ["x3", "w"], ["logits"])],
        {"shape": np.array([-1, 2, 4, 8], np.int64), "w": np.ones((2, 8, 10), np.float32)},
        {"x": ["N", 64]},
        {"logits": ["N", 2, 4, 10]},
    )
    rows, _ = pictures((64,))
    with pytest.raises(NotApplicableError, match="floating point"):
        Weights8().build(work_for(tmp_path, model, rows))


def test_every_recipe_has_a_name_of_its_own_and_can_be_opened() -> None:
    names = [open_candidate(reference).name for reference in REFERENCES]
    assert len(set(names)) == len(names) >= 7
