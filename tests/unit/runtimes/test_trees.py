"""XGBoost and LightGBM: both forms say what the library says, whatever the objective and whatever the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.contract.tabular import any_rows, cancer, diabetes, digits, holes, lgb, load, xgb

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.runtimes import forms
from forebay.runtimes.lightgbm_trees import not_above
from forebay.runtimes.tabular import TabularRuntime

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def graph_of(runtime: TabularRuntime) -> forms.Run:
    """The ONNX form alone. It is there only where loading found both forms to agree."""
    assert "both forms agree" in runtime.note
    return next(form.run for form in runtime.choice.forms if form.name == "ONNX")


def check(runtime: TabularRuntime, rows: Array, label: Array | None, values: Array, classes: bool) -> None:
    """The ONNX form on all rows and on each alone, and whatever the runtime picks, against the library's own words."""
    form = graph_of(runtime)
    singly = [np.concatenate(column) for column in zip(*(form(row[None]) for row in rows[:50]), strict=True)]
    for outputs, count in ((form(rows), len(rows)), (runtime.run({"input": rows}, len(rows)), len(rows)), (singly, 50)):
        np.testing.assert_allclose(outputs[-1], values[:count], rtol=1e-4, atol=1e-5 * max(1.0, np.abs(values).max()))
        if classes:
            assert label is not None
            np.testing.assert_array_equal(outputs[0], label[:count])


XGB_VALUES = [
    ("reg:squarederror", {}),
    ("reg:squarederror", {"base_score": 100.0}),
    ("reg:squarederror", {"num_parallel_tree": 3, "subsample": 0.7}),
    ("reg:squaredlogerror", {}),
    ("reg:pseudohubererror", {}),
    ("reg:absoluteerror", {}),
    ("reg:quantileerror", {"quantile_alpha": 0.3}),
    ("reg:quantileerror", {"quantile_alpha": [0.1, 0.5, 0.9]}),
    ("count:poisson", {}),
    ("reg:gamma", {}),
    ("reg:tweedie", {"tweedie_variance_power": 1.3}),
    ("survival:cox", {}),
    ("rank:pairwise", {}),
    ("rank:ndcg", {"lambdarank_num_pair_per_sample": 2}),
]


@pytest.mark.parametrize(("objective", "parameters"), XGB_VALUES)
def test_xgboost_predictions(tmp_path: Path, objective: str, parameters: dict[str, Any]) -> None:
    x, y = diabetes()
    path = tmp_path / "m.ubj"
    y = np.digitize(y, [100, 200]) if objective.startswith("rank") else y
    data = xgboost.DMatrix(holes(x), y)
    if objective.startswith("rank"):
        data.set_group([221, 221])
    booster = xgboost.train({"objective": objective, "nthread": 1, "max_depth": 4, **parameters}, data, 12)
    booster.save_model(path)
    rows = any_rows(x.shape[1], x)
    wanted = booster.inplace_predict(rows)
    check(load(path), rows, None, wanted, classes=False)


def test_xgboost_survival_with_bounds(tmp_path: Path) -> None:
    x, y = diabetes()
    data = xgboost.DMatrix(x)
    data.set_float_info("label_lower_bound", y)
    data.set_float_info("label_upper_bound", np.where(y > 200, np.inf, y))
    parameters = {"objective": "survival:aft", "nthread": 1, "aft_loss_distribution": "normal"}
    booster = xgboost.train(parameters, data, 12)
    booster.save_model(tmp_path / "m.ubj")
    rows = any_rows(x.shape[1], x)
    check(load(tmp_path / "m.ubj"), rows, None, booster.inplace_predict(rows), classes=False)


@pytest.mark.parametrize("parameters", [{}, {"base_score": 0.02}, {"scale_pos_weight": 5.0, "max_depth": 7}])
@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_two_classes(tmp_path: Path, suffix: str, parameters: dict[str, Any]) -> None:
    x, y = cancer()
    booster = xgb(tmp_path / f"m.{suffix}", holes(x), y, objective="binary:logistic", **parameters)
    rows = any_rows(x.shape[1], x)
    second = booster.inplace_predict(rows)
    wanted = np.stack([1 - second, second], axis=1)
    check(load(tmp_path / f"m.{suffix}"), rows, (second > 0.5).astype(np.int64), wanted, classes=True)


@pytest.mark.parametrize("sign", [0, 1])
def test_xgboost_two_classes_where_all_leaves_have_one_sign(tmp_path: Path, sign: int) -> None:
    """ONNX Runtime compares such sums with 0.5, not 0; the label must be XGBoost's."""
    x, y = cancer()
    common = {"objective": "binary:logistic", "max_depth": 2, "reg_lambda": 50.0}
    booster = xgb(tmp_path / "m.ubj", x, y, base_score=(0.99, 0.01)[sign], rounds=2, **common)
    rows = any_rows(x.shape[1], x)
    second = booster.inplace_predict(rows)
    wanted = np.stack([1 - second, second], axis=1)
    check(load(tmp_path / "m.ubj"), rows, (second > 0.5).astype(np.int64), wanted, classes=True)


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_xgboost_more_classes(tmp_path: Path, objective: str) -> None:
    x, y = digits()
    booster = xgb(tmp_path / "m.ubj", holes(x), y, objective=objective, num_class=10)
    rows = any_rows(x.shape[1], x)
    margins = booster.inplace_predict(rows, predict_type="margin").astype(np.float64)
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    found = booster.inplace_predict(rows)
    label = found.argmax(axis=1) if objective == "multi:softprob" else found.astype(np.int64)
    check(load(tmp_path / "m.ubj"), rows, label, powers / powers.sum(axis=1, keepdims=True), classes=True)


def test_xgboost_hinge_has_a_label_only(tmp_path: Path) -> None:
    x, y = cancer()
    booster = xgb(tmp_path / "m.ubj", x, y, objective="binary:hinge")
    runtime = load(tmp_path / "m.ubj")
    assert [(spec.name, spec.row_shape) for spec in runtime.signature.outputs] == [("label", ())]
    rows = any_rows(x.shape[1], x)
    wanted = booster.inplace_predict(rows)
    assert set(wanted.tolist()) == {0.0, 1.0}
    assert runtime.run({"input": rows}, len(rows))[0].tolist() == wanted.tolist()
    assert [int(runtime.run({"input": row[None]}, 1)[0][0]) for row in rows] == wanted.tolist()


def test_xgboost_several_outputs(tmp_path: Path) -> None:
    x, y = diabetes()
    booster = xgb(tmp_path / "m.ubj", x, np.stack([y, -2 * y], axis=1))
    rows = any_rows(x.shape[1], x)
    runtime = load(tmp_path / "m.ubj")
    assert [(spec.name, spec.row_shape) for spec in runtime.signature.outputs] == [("prediction", (2,))]
    check(runtime, rows, None, booster.inplace_predict(rows), classes=False)


def stopped_early(path: Path, wrapper: bool) -> tuple[xgboost.Booster, int]:
    """A model that has rounds behind its best one, saved from the wrapper or as a Booster."""
    x, y = diabetes()
    model = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=10, learning_rate=0.9, n_jobs=1)
    model.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    booster = model.get_booster()
    best = int(booster.attr("best_iteration")) + 1
    if wrapper:
        model.save_model(path)
    else:
        booster.set_attr(scikit_learn=None)
        booster.save_model(path)
    assert booster.num_boosted_rounds() > best
    return booster, best


@pytest.mark.parametrize("wrapper", [True, False])
def test_early_stopping_is_followed_where_the_file_is_a_scikit_learn_wrappers(tmp_path: Path, wrapper: bool) -> None:
    booster, best = stopped_early(tmp_path / "m.ubj", wrapper)
    x, _ = diabetes()
    rows = any_rows(x.shape[1], x)
    upto, everything = booster.inplace_predict(rows, iteration_range=(0, best)), booster.inplace_predict(rows)
    assert not np.allclose(upto, everything), "the rounds after the best one change something"
    runtime = load(tmp_path / "m.ubj")
    check(runtime, rows, None, upto if wrapper else everything, classes=False)
    assert (f"the first {best} of" in runtime.note) == wrapper


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (lambda p: xgb(p, *diabetes(), booster="dart", rate_drop=0.3), "its booster is dart"),
        (
            lambda p: xgb(p, diabetes()[0], np.stack([diabetes()[1]] * 2, axis=1), multi_strategy="multi_output_tree"),
            "its leaves hold vectors",
        ),
    ],
)
def test_what_onnx_cannot_say_runs_in_xgboost(
    tmp_path: Path, train: Callable[[Path], xgboost.Booster], reason: str
) -> None:
    booster = train(tmp_path / "m.ubj")
    runtime = load(tmp_path / "m.ubj")
    assert reason in runtime.note
    rows = np.nan_to_num(any_rows(10, diabetes()[0]), nan=0.0, posinf=1.0, neginf=-1.0)
    (answer,) = runtime.run({"input": rows}, len(rows))
    np.testing.assert_allclose(answer, booster.inplace_predict(rows), rtol=1e-6)


def test_a_linear_booster_is_refused(tmp_path: Path) -> None:
    x, y = diabetes()
    xgboost.train({"booster": "gblinear", "nthread": 1}, xgboost.DMatrix(x, y), 3).save_model(tmp_path / "m.ubj")
    with pytest.raises(SetupError, match=r"m\.ubj is a linear model \(gblinear\).*export it as ONNX"):
        load(tmp_path / "m.ubj")


def test_xgboost_categories_run_in_xgboost_by_their_codes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = np.stack([random.integers(0, 6, 400), random.standard_normal(400)], axis=1).astype(np.float32)
    y = np.isin(x[:, 0], [1, 4]) * 3.0 + x[:, 1]
    data = xgboost.DMatrix(x, y, feature_types=["c", "q"], enable_categorical=True)
    booster = xgboost.train({"nthread": 1, "max_cat_to_onehot": 1}, data, 10)
    booster.save_model(tmp_path / "m.ubj")
    runtime = load(tmp_path / "m.ubj")
    assert "it splits on categories" in runtime.note
    wanted = booster.predict(xgboost.DMatrix(x, feature_types=["c", "q"], enable_categorical=True))
    np.testing.assert_allclose(runtime.run({"input": x}, len(x))[0], wanted, rtol=1e-6)


LGB_VALUES = [
    {"objective": "regression"},
    {"objective": "regression_l1"},
    {"objective": "huber"},
    {"objective": "quantile", "alpha": 0.2},
    {"objective": "mape"},
    {"objective": "poisson"},
    {"objective": "gamma"},
    {"objective": "tweedie"},
    {"objective": "regression", "use_missing": False},
]


@pytest.mark.parametrize("parameters", LGB_VALUES)
@pytest.mark.parametrize("holed", [False, True])
def test_lightgbm_predictions(tmp_path: Path, parameters: dict[str, Any], holed: bool) -> None:
    x, y = diabetes()
    booster = lgb(tmp_path / "m.txt", holes(x) if holed else x, y, **parameters)
    rows = any_rows(x.shape[1], x)
    check(load(tmp_path / "m.txt"), rows, None, booster.predict(rows), classes=False)


@pytest.mark.parametrize("parameters", [{}, {"sigmoid": 2.5}, {"is_unbalance": True}])
def test_lightgbm_two_classes(tmp_path: Path, parameters: dict[str, Any]) -> None:
    x, y = cancer()
    booster = lgb(tmp_path / "m.lgb", holes(x), y, objective="binary", **parameters)
    rows = any_rows(x.shape[1], x)
    second = np.asarray(booster.predict(rows))
    wanted = np.stack([1 - second, second], axis=1)
    check(load(tmp_path / "m.lgb"), rows, (second > 0.5).astype(np.int64), wanted, classes=True)


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova"])
def test_lightgbm_more_classes(tmp_path: Path, objective: str) -> None:
    x, y = digits()
    booster = lgb(tmp_path / "m.txt", x, y, objective=objective, num_class=10)
    rows = any_rows(x.shape[1], x)
    wanted = np.asarray(booster.predict(rows))
    check(load(tmp_path / "m.txt"), rows, wanted.argmax(axis=1), wanted, classes=True)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"linear_tree": True}, "its leaves are linear models"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "averaged"),
        ({"objective": "regression", "reg_sqrt": True}, "is not known here"),
        ({"categories": [1, 2], "min_data_per_group": 5, "cat_smooth": 1}, "it splits on categories"),
    ],
)
def test_what_onnx_cannot_say_runs_in_lightgbm(tmp_path: Path, parameters: dict[str, Any], reason: str) -> None:
    x, y = diabetes()
    x = np.digitize(x, np.quantile(x, [0.2, 0.4, 0.6, 0.8])).astype(np.float32)
    booster = lgb(tmp_path / "m.txt", x, y, **parameters)
    runtime = load(tmp_path / "m.txt")
    assert reason in runtime.note
    np.testing.assert_allclose(runtime.run({"input": x}, len(x))[0], booster.predict(x), rtol=1e-5)


def test_the_file_of_a_model_that_lightgbm_stopped_early_holds_the_best_rounds(tmp_path: Path) -> None:
    import lightgbm

    x, y = diabetes()
    first, second = lightgbm.Dataset(x[:200], y[:200]), lightgbm.Dataset(x[200:], y[200:])
    parameters = {"verbose": -1, "num_threads": 1, "learning_rate": 0.9}
    stop = [lightgbm.early_stopping(5, verbose=False)]
    booster = lightgbm.train(parameters, first, 60, valid_sets=[second], callbacks=stop)
    booster.save_model(tmp_path / "m.txt")
    assert 0 < booster.best_iteration < 60
    assert (tmp_path / "m.txt").read_text().count("\nTree=") == booster.best_iteration
    rows = any_rows(x.shape[1], x)
    check(load(tmp_path / "m.txt"), rows, None, booster.predict(rows), classes=False)


VALUES = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-36, 16.0])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TabularRuntime, Callable[[Array], Array]]]:
    folder = tmp_path_factory.mktemp("pair")
    x, y = digits()
    first = xgb(folder / "a.ubj", holes(x[:, :12]), y, objective="multi:softprob", num_class=10)
    second = lgb(folder / "b.txt", holes(x[:, :12]), y, objective="multiclass", num_class=10)
    return [(load(folder / "a.ubj"), first.inplace_predict), (load(folder / "b.txt"), second.predict)]


@given(rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(12)), elements=VALUES))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_get_the_librarys_answer(
    pair: list[tuple[TabularRuntime, Callable[[Array], Array]]], rows: Array
) -> None:
    for runtime, predict in pair:
        _, probabilities = runtime.run({"input": rows}, len(rows))
        np.testing.assert_allclose(probabilities, predict(rows), rtol=1e-4, atol=1e-5)


@given(threshold=hnp.arrays(np.float64, 20, elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_a_threshold_in_float32_separates_the_same_float32_numbers(threshold: Array) -> None:
    near = not_above(threshold)
    with np.errstate(over="ignore"):
        above, below = np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))
    for number in (near, above, below):
        np.testing.assert_array_equal(number <= near, number.astype(np.float64) <= threshold)


def test_a_file_that_xgboost_cannot_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"learner": {}}')
    with pytest.raises(SetupError, match=r"model m: XGBoost cannot load .*m\.json: ") as caught:
        load(tmp_path / "m.json")
    assert "\n" not in caught.value.message
