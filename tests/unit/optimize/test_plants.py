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
from tests.unit.optimize.digits import SEEN, digits, mlp, write_samples
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.core.errors import SetupError
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
    """One search over all of them, in which batches may differ."""
    folder = tmp_path_factory.mktemp("plants")
    samples = write_samples(folder / "samples.npz", 60)
    recipes = [
        *(subtle.NanInSomeBatches, subtle.Remembers, subtle.ChangesItsMind, subtle.Forgets),
        *(subtle.WritesToItself, subtle.TiedToItsFolder, subtle.InPython),
    ]
    report = search(folder, mlp(), samples, *recipes, batch_invariance=False)
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


def ids(count: int, longest: int) -> list[Any]:
    random = np.random.default_rng(5)
    return [random.integers(0, 20, size=int(random.integers(3, longest))) for _ in range(count)]


@pytest.mark.parametrize(("longest", "reason"), [(subtle.SHORT, None), (2 * subtle.SHORT, "disagrees")])
def test_what_is_wrong_on_long_rows_is_found_where_samples_are_as_long(
    tmp_path: Path, longest: int, reason: str | None
) -> None:
    rows = ids(60, longest)
    samples = tmp_path / "rows.jsonl"
    samples.write_text("\n".join(f'{{"ids": {row.tolist()}}}' for row in rows))
    report = search(tmp_path, of_any_length(), samples, subtle.WrongOnLong, batch_invariance=False)
    assert report.candidates[0].reason == reason
    assert report.samples.longest < longest


def test_what_takes_one_length_only_is_told_by_its_signature(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", ids=np.random.default_rng(0).integers(0, 20, size=(60, 12)))
    report = search(tmp_path, of_any_length(), tmp_path / "rows.npz", subtle.FixedLength)
    assert report.candidates[0].reason == "wrong_signature"
    assert "[-1, 12]" in report.candidates[0].detail


def test_every_output_is_looked_at_unless_one_is_named(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples.npz", 60)
    report = search(tmp_path, labelled(), samples, subtle.OtherLabel, subtle.OtherOrder)
    wrong, sound = report.candidates
    assert (wrong.reason, sound.reason) == ("disagrees", None)
    assert "output 'label'" in wrong.detail
    assert [one.name for one in report.original.others] == ["label"]
    named = search(tmp_path, labelled(), samples, subtle.OtherLabel, output="logits")
    assert named.candidates[0].reason is None


def test_what_is_known_by_heart_does_not_pass_though_samples_repeat_themselves(tmp_path: Path) -> None:
    x, _ = digits()
    np.savez(tmp_path / "rows.npz", x=np.tile(x[SEEN : SEEN + 30], (8, 1)))
    report = search(tmp_path, mlp(), tmp_path / "rows.npz", subtle.Memorised)
    assert report.candidates[0].reason == "disagrees"
    assert (report.samples.calibration + report.samples.held_out, report.samples.duplicates) == (30, 210)


def test_samples_that_a_blind_model_would_pass_are_refused(tmp_path: Path) -> None:
    x, y = digits()
    zeros = x[SEEN:][y[SEEN:] == 0]
    np.savez(tmp_path / "zeros.npz", x=zeros)
    with pytest.raises(SetupError, match="tell nothing"):
        search(tmp_path, mlp(), tmp_path / "zeros.npz", plain.Planted)
    np.savez(tmp_path / "other.npz", x=x[SEEN : SEEN + 60], labels=(y[SEEN : SEEN + 60] + 1) % 10)
    with pytest.raises(SetupError, match="labels that are the model's"):
        search(tmp_path, mlp(), tmp_path / "other.npz", plain.Planted, metric="accuracy", head="argmax")


def test_a_source_that_is_written_to_meanwhile_is_no_source(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples.npz", 60)

    class Writes(Silent):
        def begins(self, name: str, meaning: str) -> None:
            model = onnx.load(str(tmp_path / "net.onnx"))
            model.producer_name = "somebody else"
            onnx.save(model, str(tmp_path / "net.onnx"))

    onnx.save(mlp(), str(tmp_path / "net.onnx"))
    order = Order(
        source=str(tmp_path / "net.onnx"),
        samples=samples,
        out=tmp_path / "out",
        asked=Asked(min_speedup=0.0, effort=QUICK),
        candidates=("tests.models.candidates:Planted",),
    )
    with pytest.raises(SetupError, match="was written to while it was optimised"):
        optimize(order, Writes())
    assert not (tmp_path / "out").exists()


def test_the_fastest_few_and_the_original_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples.npz", 60)
    onnx.save(mlp(), str(tmp_path / "net.onnx"))
    (tmp_path / "net.toml").write_text('labels = "names.txt"\ninstances = 1\n')
    (tmp_path / "names.txt").write_text("zero\n")
    order = Order(
        source=str(tmp_path / "net.onnx"),
        samples=samples,
        out=tmp_path / "out",
        asked=Asked(metric="top1", min_speedup=0.0, effort=QUICK),
        candidates=(
            "tests.models.candidates:Planted",
            "tests.models.subtle:Scaled",
            "tests.models.candidates:OtherModel",
        ),
        keep=3,
    )
    report = optimize(order, Silent())
    other = next(name for name in ("same", "scaled") if name != report.chosen)
    made = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert made == {
        "report.json",
        "report.html",
        *(f"net/{name}" for name in ("model.toml", "names.txt", "1/model.onnx", "1/artefact.json")),
        *(f"_artefacts/{other}/1/{name}" for name in ("model.onnx", "artefact.json")),
        *(f"_artefacts/fp32/1/{name}" for name in ("net.onnx", "artefact.json")),
        *(f"_artefacts/{one}/{name}" for one in (other, "fp32") for name in ("model.toml", "names.txt")),
    }
    # The same command does it again in the same place, and leaves no more than it was asked for.
    optimize(Order(**{**vars(order), "keep": 1}), Silent())
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"report.json", "report.html", "net"}
    (tmp_path / "out" / "net" / "thesis.tex").write_text("years of work")
    with pytest.raises(SetupError, match=r"holds net/thesis\.tex"):
        optimize(order, Silent())
