"""A search rejects what answers wrongly, what is slow and what breaks, each with its reason, and goes on."""

from __future__ import annotations

import pickle
import re
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Perceptron, RidgeClassifier
from sklearn.svm import LinearSVC
from tests.contract.tabular import diabetes, dump, xgb
from tests.models import candidates as planted
from tests.unit.optimize.digits import SEEN, digits, mlp, write_samples
from tests.unit.optimize.test_folders import WORDS, bert_weights, folder_of
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.core.errors import SetupError
from forebay.models.artefact import isa_here, read_note
from forebay.models.source import open_source
from forebay.optimize.goals import Asked, Effort
from forebay.optimize.report import CandidateReport, Report, read_report
from forebay.optimize.run import Order, optimize
from forebay.runtimes.port import load_runtime

QUICK = Effort(rounds=1, rounds_rejected=1, round_s=0.02, sizes=(1, 8))
# Whether a tiny model is faster is noise; these tests are about answers. What is slower by far is still told.
ANY_SPEED = 0.3


class Silent:
    """Nobody watches; what was said is kept."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.ended: list[str] = []

    def begins(self, name: str, meaning: str) -> None:
        self.said.append((name, meaning))

    def says(self, name: str, text: str) -> None:
        self.said.append((name, text))

    def ends(self, report: CandidateReport) -> None:
        self.ended.append(report.name)


def reference(candidate: type) -> str:
    return f"tests.models.candidates:{candidate.__name__}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "digits.onnx"
    onnx.save(mlp(), str(path))
    return path


def search(source: Path, *candidates: type, **asked: object) -> Report:
    asked = {"metric": "top1", "max_drop": 0.02, "min_speedup": ANY_SPEED, "effort": QUICK, **asked}
    samples = write_samples(source.parent / "samples.npz", 60)
    order = Order(
        source=str(source),
        samples=samples,
        out=source.parent / "out",
        asked=Asked(**asked),  # type: ignore[arg-type]
        candidates=tuple(reference(one) for one in candidates),
    )
    return optimize(order, Silent())


FAULTS = [
    (planted.OtherModel, "disagrees", "same class in 0.00%"),
    (planted.Slower, "slower", "of the original's speed"),
    (planted.NotANumber, "not_finite", "NaN"),
    (planted.BatchVariant, "batch_variant", "alone and in a batch differ"),
    (planted.OtherSignature, "wrong_signature", "scores"),
    (planted.CrashesInBuild, "crashed", "SIGABRT"),
    (planted.FailsInBuild, "build_failed", "no such thing as half a layer"),
    (planted.CrashesInUse, "crashed", "SIGABRT"),
    (planted.NeedsMore, "missing_library", "pip install 'forebay[optimize]'"),
    (planted.OnADevice, "crashed", "device 'abacus:0' is not usable"),
    (planted.Imprecise, "build_failed", "Invalid enum value 'fp3'"),
]


def test_the_sound_one_among_broken_ones_is_chosen_and_noted_until_nothing_passes_any_more(source: Path) -> None:
    report = search(source, planted.OtherModel, planted.CrashesInUse, planted.Planted)
    assert [one.reason for one in report.candidates] == ["disagrees", "crashed", None]
    assert report.chosen == "same"
    note = read_note(source.parent / "out" / "digits" / "1")
    assert note is not None
    assert (note.candidate, note.source, note.isa) == ("same", str(source), isa_here())
    assert note.source_sha256 == report.source.sha256

    report = search(source, planted.OtherModel)
    assert report.chosen is None
    assert not (source.parent / "out" / "digits").exists()
    assert read_report((source.parent / "out" / "report.json").read_bytes()) == report


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One search over all faults."""
    path = tmp_path_factory.mktemp("faults") / "digits.onnx"
    onnx.save(mlp(), str(path))
    return search(path, *(candidate for candidate, _, _ in FAULTS))


@pytest.mark.parametrize(("candidate", "reason", "told"), FAULTS)
def test_a_planted_fault_is_rejected_with_its_reason(
    found: Report, candidate: type[planted.Planted], reason: str, told: str
) -> None:
    (judged,) = [one for one in found.candidates if one.name == candidate.name]
    assert judged.reason == reason, judged.detail
    assert told in judged.detail
    assert found.chosen is None


def test_the_worst_samples_are_told_by_their_number_in_the_file(found: Report) -> None:
    (judged,) = [one for one in found.candidates if one.name == planted.OtherModel.name]
    rows = np.load(found.samples.path)["x"]
    (answers,) = ort.InferenceSession(found.source.path).run(None, {"x": rows})
    assert judged.worst
    for worst in judged.worst:
        assert worst.original == pytest.approx(answers[worst.sample - 1][:8].tolist(), rel=1e-4)


def test_weights_in_a_file_of_their_own_count_as_part_of_the_model(source: Path) -> None:
    onnx.save_model(
        mlp(),
        str(source),
        save_as_external_data=True,
        location="digits.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    report = search(source, planted.Planted)
    files = [source, source.with_name("digits.onnx.data")]
    assert report.original.size_bytes == sum(file.stat().st_size for file in files)
    (same,) = report.candidates
    assert same.size_bytes == pytest.approx(report.original.size_bytes, rel=0.05)


def test_batch_variance_passes_only_where_it_is_allowed_and_is_reported_all_the_same(source: Path) -> None:
    report = search(source, planted.BatchVariant, batch_invariance=False)
    (judged,) = report.candidates
    assert report.chosen == "batch-variant"
    assert judged.invariance is not None
    assert not judged.invariance.holds
    assert judged.invariance.max_error > judged.invariance.tolerance


def test_the_settings_that_a_candidate_was_measured_with_are_those_it_is_served_with(source: Path) -> None:
    own = 'threads = 2\n  devices = [\n  "cpu",\n]  # here\ninference_precision = "fp32"\n'
    source.with_suffix(".toml").write_text(own)
    report = search(source, planted.Rounded, min_speedup=0.0)
    (judged,) = report.candidates
    assert (judged.reason, judged.served_with.inference_precision) == (None, "bf16"), judged.detail
    settings = tomllib.loads((source.parent / "out" / "digits" / "model.toml").read_text())
    assert settings == {"inference_precision": "bf16", "threads": 2}
    served = open_source(str(source.parent / "out" / "digits" / "1" / "model.xml"))
    assert load_runtime(served, "cpu", 1, judged.served_with.options()).signature.batched
    with pytest.raises(SetupError, match="compared with inference_precision bf16, the settings say fp32"):
        load_runtime(served, "cpu", 1)


def test_an_slo_that_no_batch_meets_is_missed(source: Path) -> None:
    report = search(source, planted.Planted, slo_ms=1e-6)
    assert [one.reason for one in report.candidates] == ["misses_slo"]


def test_trees_may_leave_their_library_with_the_same_names_and_shapes(tmp_path: Path) -> None:
    x, y = diabetes()
    xgb(tmp_path / "sugar.ubj", x, y)
    np.savetxt(tmp_path / "rows.csv", x[:60], delimiter=",", header=",".join("abcdefghij"), comments="")
    order = Order(
        source=str(tmp_path / "sugar.ubj"),
        samples=tmp_path / "rows.csv",
        out=tmp_path / "out",
        asked=Asked(min_speedup=0.0, effort=QUICK),
        only=("onnx",),
    )
    report = optimize(order, Silent())
    assert (report.chosen, report.goals.metric, report.original.runtime) == ("onnx", "max_error", "xgboost")
    served = load_runtime(open_source(str(tmp_path / "out" / "sugar" / "1" / "model.onnx")), "cpu", 1)
    original = load_runtime(open_source(str(tmp_path / "sugar.ubj")), "cpu", 1)
    assert served.signature == original.signature
    np.testing.assert_allclose(served.run({"input": x}, len(x))[0], original.run({"input": x}, len(x))[0], rtol=1e-4)


@pytest.mark.parametrize("suffix", ["skops", pytest.param("pkl", marks=pytest.mark.full)])
def test_a_file_that_is_not_trusted_is_measured_once_the_setting_in_the_error_is_given(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = digits()
    fitted = RandomForestClassifier(3, max_depth=4, random_state=0).fit(x[:SEEN], y[:SEEN])
    if suffix == "pkl":
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(fitted))
    else:
        dump(tmp_path / "m.skops", fitted)
    np.savez(tmp_path / "samples.npz", input=x[SEEN : SEEN + 100], labels=y[SEEN : SEEN + 100])
    words = ["optimize", f"m.{suffix}", "--samples", "samples.npz", "--candidate", "onnx", "--rounds", "1"]
    words += ["--min-speedup", "0", "--out", "out"]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, SetupError)
    mend = re.search(r"--set (\S+)$", refused.message)
    assert mend is not None, refused.message
    done = CliRunner().invoke(app, [*words, "--set", mend[1]])
    assert done.exit_code == 0, done.output or done.exception
    assert "onnx is in out" in done.output


@pytest.mark.parametrize(
    "name", ["RidgeClassifier", *(pytest.param(one, marks=pytest.mark.full) for one in ("LinearSVC", "Perceptron"))]
)
def test_a_classifier_without_probabilities_may_leave_its_library_too(tmp_path: Path, name: str) -> None:
    x, y = digits()
    fitted = {"LinearSVC": LinearSVC, "RidgeClassifier": RidgeClassifier, "Perceptron": Perceptron}[name]()
    dump(tmp_path / "m.skops", fitted.fit(x[:SEEN], y[:SEEN]))
    np.savez(tmp_path / "samples.npz", input=x[SEEN:], labels=y[SEEN:])
    order = Order(
        source=str(tmp_path / "m.skops"),
        samples=tmp_path / "samples.npz",
        out=tmp_path / "out",
        asked=Asked(min_speedup=0.0, effort=QUICK),
        only=("onnx",),
    )
    report = optimize(order, Silent())
    assert report.chosen == "onnx", report.candidates[0].detail
    assert (report.output, report.goals.metric) == ("label", "accuracy")
    served = load_runtime(open_source(str(tmp_path / "out" / "m" / "1" / "model.onnx")), "cpu", 1)
    assert [(spec.name, spec.datatype, spec.row_shape) for spec in served.signature.outputs] == [("label", "INT64", ())]
    found = served.run({"input": x[SEEN:]}, len(x) - SEEN)[0]
    assert np.mean(found == fitted.predict(x[SEEN:])) > 0.99


def test_of_a_folder_that_cannot_be_served_itself_the_export_remains(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", bert_weights())
    ids = np.random.default_rng(0).integers(1, WORDS, size=(20, 4))
    np.savez(tmp_path / "ids.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    order = Order(
        source=str(folder),
        samples=tmp_path / "ids.npz",
        out=tmp_path / "out",
        asked=Asked(min_speedup=100.0, effort=QUICK),
        only=("weights-int8",),
    )
    report = optimize(order, Silent())
    assert report.candidates[0].reason is not None
    assert report.chosen == "fp32"
    assert report.original.model == "net.onnx", "a path into the search's own folder is gone by now"
    served = load_runtime(open_source(str(tmp_path / "out" / "net" / "1" / "net.onnx")), "cpu", 1)
    assert [spec.name for spec in served.signature.outputs] == ["last_hidden_state"]
