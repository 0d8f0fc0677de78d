"""Faults that a first look does not see are found all the same, and what is sound is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.models import candidates as plain
from tests.models import subtle
from tests.unit.optimize.digits import SEEN, cnn, digits, linear, mlp, write_samples
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.core.errors import SetupError
from forebay.optimize.candidates.static8 import Static8, Static8Excluded
from forebay.optimize.goals import Asked
from forebay.optimize.report import Report
from forebay.optimize.run import Order, optimize


def labelled() -> Any:
    """The network of `digits.mlp` with a second output, `label` [N]."""
    model = mlp()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    return model


def of_any_length() -> Any:
    """`ids` [N, L] to `logits` [N, 10]: how often each of ten numbers occurs, weighted."""
    table = np.random.default_rng(3).standard_normal((20, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axis"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "lengths",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "L"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def search(folder: Path, model: Any, samples: Path, *candidates: type, **asked: Any) -> Report:
    onnx.save(model, str(folder / "net.onnx"))
    order = Order(
        source=str(folder / "net.onnx"),
        samples=samples,
        out=folder / "out",
        asked=Asked(**{"metric": "top1", "max_drop": 0.02, "min_speedup": 0.0, "effort": QUICK, **asked}),
        candidates=tuple(f"{one.__module__}:{one.__name__}" for one in candidates),
    )
    return optimize(order, Silent())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One search over all of them, in which batches may differ, and in which every sample comes twice."""
    folder = tmp_path_factory.mktemp("plants")
    x, _ = digits()
    np.savez(folder / "samples.npz", x=np.tile(x[SEEN : SEEN + 60], (2, 1)))
    recipes = [
        *(subtle.NanInSomeBatches, subtle.Remembers, subtle.ChangesItsMind, subtle.Forgets),
        *(subtle.WritesToItself, subtle.TiedToItsFolder, subtle.Memorised, subtle.Scaled, subtle.InPython),
    ]
    report = search(folder, mlp(), folder / "samples.npz", *recipes, batch_invariance=False)
    assert [entry.name for entry in (folder / "out" / "net" / "1").glob("*.py")] == ["model.py"]
    return report


@pytest.mark.parametrize(
    ("candidate", "reason", "told"),
    [
        (subtle.NanInSomeBatches, "not_finite", "in batches"),
        (subtle.Remembers, "remembers", "new rows take"),
        (subtle.ChangesItsMind, "not_repeatable", "asked again"),
        (subtle.Forgets, "crashed", "a batch failed"),
        (subtle.WritesToItself, "not_repeatable", "written to"),
        (subtle.TiedToItsFolder, "not_movable", "only where it was made"),
        (subtle.Memorised, "disagrees", "same class"),
        (subtle.Scaled, "disagrees", "same class in 100.00%, but as another model might: answers are 9900.0% away"),
        (subtle.InPython, None, ""),
    ],
)
def test_a_fault_that_hides_is_found_and_what_is_sound_is_chosen(
    found: Report, candidate: type[plain.Planted], reason: str | None, told: str
) -> None:
    (report,) = [one for one in found.candidates if one.name == candidate.name]
    assert report.reason == reason, report.detail
    assert told in report.detail
    assert found.chosen == subtle.InPython.name


def test_a_sample_that_comes_again_is_not_in_both_parts(found: Report) -> None:
    assert (found.samples.calibration, found.samples.held_out, found.samples.duplicates) == (30, 30, 60)


def test_what_is_wrong_on_long_rows_is_found_where_samples_are_as_long(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    lengths = random.integers(3, 2 * subtle.SHORT, size=60)
    rows = [random.integers(0, 20, size=length).tolist() for length in lengths]
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{{"ids": {row}}}' for row in rows))
    recipes = (subtle.WrongOnLong, subtle.FixedLength, plain.Planted)
    report = search(tmp_path, of_any_length(), tmp_path / "rows.jsonl", *recipes, batch_invariance=False)
    assert [one.reason for one in report.candidates] == ["disagrees", "wrong_signature", None]
    assert "[-1, 12]" in report.candidates[1].detail
    assert subtle.SHORT < report.samples.longest < 2 * subtle.SHORT


def test_every_output_is_looked_at(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples.npz", 60)
    report = search(tmp_path, labelled(), samples, subtle.OtherLabel, subtle.OtherOrder)
    wrong, sound = report.candidates
    assert (wrong.reason, sound.reason) == ("disagrees", None)
    assert "output 'label'" in wrong.detail
    assert [one.name for one in report.original.others] == ["label"]


@pytest.mark.parametrize(
    "output", ["logits", *(pytest.param(one, marks=pytest.mark.full) for one in ("probabilities", "label"))]
)
def test_another_model_of_the_same_accuracy_is_not_the_original(tmp_path: Path, output: str) -> None:
    samples = write_samples(tmp_path / "samples.npz", 500, labels=True)
    onnx.save(linear(0, 600, output), str(tmp_path / "other.onnx"))
    original, recipes = linear(600, 1200, output), (subtle.OtherTraining, subtle.CopyOfFile)
    report = search(tmp_path, original, samples, *recipes, metric=None, max_drop=None)
    other, sound = report.candidates
    assert report.goals.metric == "accuracy"
    assert report.original.agreement is not None
    assert other.agreement is not None
    assert (other.agreement.accuracy or 0.0) >= (report.original.agreement.accuracy or 1.0)
    assert (other.reason, sound.reason) == ("disagrees", None)
    assert "as another model might" in other.detail
    wide = search(tmp_path, original, samples, subtle.OtherTraining, metric=None, max_drop=0.15)
    assert wide.candidates[0].reason is None


def one_probability(first: int, last: int) -> Any:
    """`x` [N, 64] to `p` [N, 1]: whether the number is a 3."""
    model = linear(first, last, "probabilities")
    model.graph.initializer.append(numpy_helper.from_array(np.array([3]), "three"))
    model.graph.node.append(helper.make_node("Gather", ["probabilities", "three"], ["p"], axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 1]))
    return model


def test_one_probability_is_compared_by_the_labels_0_and_1(tmp_path: Path) -> None:
    x, y = digits()
    np.savez(tmp_path / "samples.npz", x=x[SEEN:], labels=(y[SEEN:] == 3).astype(np.int64))
    onnx.save(one_probability(0, 600), str(tmp_path / "other.onnx"))
    recipes = (subtle.CopyOfFile, subtle.OtherTraining)
    report = search(
        tmp_path, one_probability(600, 1200), tmp_path / "samples.npz", *recipes, metric=None, max_drop=None
    )
    assert (report.goals.metric, report.samples.head) == ("accuracy", "threshold")
    assert report.original.agreement is not None
    assert (report.original.agreement.accuracy or 0.0) > 0.95
    assert [one.reason for one in report.candidates] == [None, "disagrees"]


def test_8_bits_are_not_taken_for_another_model(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples.npz", 500, (1, 8, 8), labels=True)
    recipes = (Static8, Static8Excluded)
    report = search(tmp_path, cnn(), samples, *recipes, metric=None, max_drop=0.02, batch_invariance=False)
    assert [one.reason for one in report.candidates] == [None, None], report.candidates
    for one in report.candidates:
        assert one.agreement is not None
        assert 0.0 < (one.agreement.distance or 0.0) < 0.07  # half of what is allowed at the usual drop


@pytest.mark.parametrize("file", ["net.onnx", "training.csv"])
def test_a_source_that_is_written_to_meanwhile_is_no_source(tmp_path: Path, file: str) -> None:
    class Writes(Silent):
        def begins(self, name: str, meaning: str) -> None:
            model = onnx.load(str(tmp_path / "net.onnx"))
            model.producer_name = "somebody else"
            onnx.save(model, str(tmp_path / file))

    onnx.save(mlp(), str(tmp_path / "net.onnx"))
    (tmp_path / "training.csv").write_text("what it was trained on")
    order = Order(
        source=str(tmp_path / "net.onnx"),
        samples=write_samples(tmp_path / "samples.npz", 60),
        out=tmp_path / "out",
        asked=Asked(effort=QUICK),
        candidates=(),
        depends_on=[tmp_path / "training.csv"],
    )
    with pytest.raises(SetupError, match=rf"{file}.* was written to while it was optimised"):
        optimize(order, Writes())
    assert not (tmp_path / "out").exists()
