"""scikit-learn files: what is trusted, what outputs are called, and that both forms answer as the estimator does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from tests.contract.tabular import TREE, cancer, diabetes, digits, dump, holes, load

from forebay.core.errors import ExecutionError, SetupError
from forebay.models.source import open_source
from forebay.runtimes.port import load_runtime

HISTOGRAM = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
CALIBRATED = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration")
TRUSTED = (TREE, HISTOGRAM, *CALIBRATED, "numpy.dtype")

CLASSIFIERS = [
    (make_pipeline(StandardScaler(), LogisticRegression()), "both forms agree"),
    (GaussianNB(), "both forms agree"),
    (DecisionTreeClassifier(max_depth=6, random_state=0), "both forms agree"),
    (RandomForestClassifier(15, random_state=0), "both forms agree"),
    (ExtraTreesClassifier(15, max_depth=8, random_state=0), "both forms agree"),
    (HistGradientBoostingClassifier(max_iter=10), "runs as "),
    (CalibratedClassifierCV(LinearSVC(), ensemble=False), "runs as "),
]


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(("estimator", "note"), CLASSIFIERS)
def test_classifiers(tmp_path: Path, estimator: Any, note: str, words: bool) -> None:
    x, y = cancer()
    x = np.round(x / x.std(axis=0), 2)
    labels = np.array(["good", "bad"])[y] if words else y + 5
    estimator = dump(tmp_path / "m.skops", estimator.fit(x, labels))
    runtime = load(tmp_path / "m.skops", trusted_types=TRUSTED)
    assert note in runtime.note
    for rows in (1, len(x)):
        label, probabilities = runtime.run({"input": x[:rows]}, rows)
        assert label.tolist() == estimator.predict(x[:rows].astype(np.float64)).tolist()
        wanted = estimator.predict_proba(x[:rows].astype(np.float64))
        np.testing.assert_allclose(probabilities, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.bool_, np.uint8])
@pytest.mark.parametrize("estimator", [make_pipeline(StandardScaler(), LogisticRegression()), LinearSVC()])
def test_classes_that_are_whole_numbers_of_any_type_are_numbers_in_both_forms(
    tmp_path: Path, estimator: Any, dtype: type[Any]
) -> None:
    x, y = cancer()
    x = np.round(x / x.std(axis=0), 2)
    estimator = dump(tmp_path / "m.skops", estimator.fit(x, y.astype(dtype)))
    runtime = load(tmp_path / "m.skops")
    assert "both forms agree" in runtime.note
    assert runtime.signature.outputs[0].datatype == "INT64"
    for rows in (1, len(x)):
        label = runtime.run({"input": x[:rows]}, rows)[0]
        assert label.dtype == np.int64
        assert label.tolist() == estimator.predict(x[:rows].astype(np.float64)).astype(int).tolist()


@pytest.mark.parametrize(
    ("estimator", "refuses"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), ("nan", "inf")),
        (Ridge(), ("nan", "inf")),
        (make_pipeline(SimpleImputer(), LogisticRegression()), ("inf",)),
        (DecisionTreeClassifier(max_depth=3, random_state=0), ("inf",)),
        (HistGradientBoostingClassifier(max_iter=3), ()),
    ],
)
def test_what_an_estimator_takes_in_no_column_stands_in_the_signature(
    tmp_path: Path, estimator: Any, refuses: tuple[str, ...]
) -> None:
    x, y = cancer()
    estimator = dump(tmp_path / "m.skops", estimator.fit(x / x.std(axis=0), y))
    runtime = load(tmp_path / "m.skops", trusted_types=TRUSTED)
    assert runtime.signature.inputs[0].refuses == refuses
    if "nan" not in refuses:
        rows = holes(x / x.std(axis=0))
        wanted = estimator.predict_proba(rows.astype(np.float64))
        np.testing.assert_allclose(runtime.run({"input": rows}, len(rows))[1], wanted, atol=1e-5)


def test_where_only_some_columns_may_be_missing_the_estimator_judges_the_row(tmp_path: Path) -> None:
    x, y = diabetes()
    filled = ColumnTransformer([("fill", SimpleImputer(), [0, 1])], remainder="passthrough")
    estimator = dump(tmp_path / "m.skops", make_pipeline(filled, Ridge()).fit(x, y))
    runtime = load(tmp_path / "m.skops", trusted_types=TRUSTED)
    assert "ONNX" in runtime.note
    assert runtime.signature.inputs[0].refuses == ("inf",)
    row = x[:1].copy()
    row[0, 1] = np.nan
    np.testing.assert_allclose(runtime.run({"input": row}, 1)[0], estimator.predict(row), rtol=1e-4)
    row[0, 5] = np.nan
    with pytest.raises(ExecutionError, match="contains NaN"):
        runtime.run({"input": row}, 1)


@pytest.mark.parametrize("form", [RandomForestClassifier, DecisionTreeClassifier])
def test_missing_values_go_the_estimators_way_in_onnx_too(tmp_path: Path, form: type[Any]) -> None:
    x, y = digits()
    estimator = dump(tmp_path / "m.skops", form(max_depth=6, random_state=0).fit(holes(x), y))
    runtime = load(tmp_path / "m.skops", trusted_types=TRUSTED)
    assert "both forms agree" in runtime.note
    rows = holes(x, seed=3)[:300]
    alone = np.concatenate([runtime.run({"input": row[None]}, 1)[1] for row in rows])
    np.testing.assert_allclose(alone, estimator.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize(
    ("estimator", "name", "shape"),
    [
        (Ridge(), "prediction", ()),
        (RandomForestRegressor(10, max_depth=6, random_state=0), "prediction", ()),
        (GradientBoostingRegressor(n_estimators=15, random_state=0), "prediction", ()),
        (StandardScaler(), "output", (10,)),
    ],
)
def test_numbers(tmp_path: Path, estimator: Any, name: str, shape: tuple[int, ...]) -> None:
    x, y = diabetes()
    estimator = dump(tmp_path / "m.skops", estimator.fit(x, y))
    runtime = load(tmp_path / "m.skops", trusted_types=TRUSTED)
    assert [(spec.name, spec.datatype, spec.row_shape) for spec in runtime.signature.outputs] == [(name, "FP32", shape)]
    wanted = getattr(estimator, "predict" if name == "prediction" else "transform")(x.astype(np.float64))
    for rows in (1, len(x)):
        np.testing.assert_allclose(runtime.run({"input": x[:rows]}, rows)[0], wanted[:rows], rtol=1e-4, atol=1e-5)


def test_several_targets_and_clusters(tmp_path: Path) -> None:
    x, y = diabetes()
    both = dump(tmp_path / "two.skops", Ridge().fit(x, np.stack([y, -y], axis=1)))
    runtime = load(tmp_path / "two.skops")
    assert runtime.signature.outputs[0].row_shape == (2,)
    np.testing.assert_allclose(runtime.run({"input": x}, len(x))[0], both.predict(x), rtol=1e-3)
    clusters = dump(tmp_path / "k.skops", KMeans(3, random_state=0, n_init=1).fit(x.astype(np.float64)))
    runtime = load(tmp_path / "k.skops")
    assert runtime.signature.outputs[0].datatype == "INT64"
    assert runtime.run({"input": x}, len(x))[0].tolist() == clusters.labels_.tolist()


def test_an_estimator_that_takes_only_the_float32_that_it_was_fitted_on(tmp_path: Path) -> None:
    x, _ = diabetes()
    assert x.dtype == np.float32
    clusters = dump(tmp_path / "k.skops", KMeans(3, random_state=0, n_init=1).fit(x))
    runtime = load(tmp_path / "k.skops")
    assert runtime.run({"input": x}, len(x))[0].tolist() == clusters.labels_.tolist()


def test_a_classifier_without_probabilities_has_a_label(tmp_path: Path) -> None:
    x, y = cancer()
    estimator = dump(tmp_path / "m.skops", make_pipeline(StandardScaler(), LinearSVC()).fit(x, y))
    runtime = load(tmp_path / "m.skops")
    assert [spec.name for spec in runtime.signature.outputs] == ["label"]
    assert runtime.run({"input": x}, len(x))[0].tolist() == estimator.predict(x).tolist()


def test_types_that_skops_does_not_trust_are_named_with_the_setting(tmp_path: Path) -> None:
    dump(tmp_path / "forest.skops", RandomForestClassifier(3).fit(*cancer()))
    with pytest.raises(SetupError) as caught:
        load(tmp_path / "forest.skops")
    assert caught.value.code == "model_load_error"
    assert f"not trusted: {TREE}" in caught.value.message
    assert f"--set forest.trusted_types={TREE}" in caught.value.message
    with pytest.raises(SetupError, match="not trusted"):
        load(tmp_path / "forest.skops", trusted_types=("sklearn.tree._tree.Tre",))
    assert load(tmp_path / "forest.skops", trusted_types=(TREE,)).note


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "joblib"])
def test_a_pickle_is_not_opened_unless_allowed(tmp_path: Path, suffix: str) -> None:
    path, sprung = tmp_path / f"m.{suffix}", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(SetupError) as caught:
        load(path)
    assert "runs whatever code its writer put into it" in caught.value.message
    assert "--set m.allow_pickle=true" in caught.value.message
    assert "skops.io.dump" in caught.value.message
    assert not sprung.exists()


@pytest.mark.parametrize("suffix", ["pkl", "joblib"])
def test_an_allowed_pickle_is_served(tmp_path: Path, suffix: str) -> None:
    x, y = diabetes()
    estimator = Ridge().fit(x, y)
    path = tmp_path / f"m.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(estimator))
    else:
        joblib.dump(estimator, path)
    runtime = load(path, allow_pickle=True)
    np.testing.assert_allclose(runtime.run({"input": x}, len(x))[0], estimator.predict(x), rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds a dict, which is no scikit-learn estimator"),
        (Ridge(), "holds a Ridge that is not fitted; fit it before saving"),
        (make_pipeline(TfidfVectorizer(), LogisticRegression()), "holds a Pipeline that is not fitted"),
        (
            make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0]),
            "holds a Pipeline that takes text, not numbers; serve it as a Python model",
        ),
        (TfidfVectorizer().fit(["good", "bad"]), "holds a TfidfVectorizer that takes text, not numbers"),
        (DictVectorizer().fit([{"a": 1}]), "does not say of how many numbers a row is.*serve it as a Python model"),
    ],
)
def test_what_is_not_fitted_on_rows_of_numbers(tmp_path: Path, content: Any, message: str) -> None:
    dump(tmp_path / "m.skops", content)
    with pytest.raises(SetupError, match=message):
        load(tmp_path / "m.skops")


def test_several_outputs_of_a_classifier_are_refused(tmp_path: Path) -> None:
    x, y = cancer()
    dump(tmp_path / "m.skops", DecisionTreeClassifier(max_depth=2).fit(x, np.stack([y, 1 - y], axis=1)))
    with pytest.raises(SetupError, match="has several outputs; serve one estimator for each"):
        load(tmp_path / "m.skops", trusted_types=TRUSTED)


@pytest.mark.parametrize(
    ("library", "suffix", "head"),
    [
        ("xgboost", "json", b'{"learner":{}}'),
        ("lightgbm", "txt", b"tree\nversion=v4\n"),
        ("skops", "skops", b"PK\x03\x04"),
    ],
)
def test_a_missing_library_is_one_line_with_what_to_install(
    tmp_path: Path, library: str, suffix: str, head: bytes
) -> None:
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(head)
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from forebay.models.source import open_source; from forebay.runtimes.port import load_runtime\n"
        f"load_runtime(open_source({str(path)!r}), 'cpu', 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "forebay[trees]"' in done.stderr.strip().splitlines()[-1]


def test_the_threads_asked_for_are_taken(tmp_path: Path) -> None:
    dump(tmp_path / "m.skops", Ridge().fit(*diabetes()))
    runtime = load_runtime(open_source(str(tmp_path / "m.skops")), "cpu", 2)
    assert runtime.note.startswith("runs as ")
