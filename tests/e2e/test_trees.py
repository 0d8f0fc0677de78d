"""Models of trees and classic models behind the real command: named outputs, one line for what is not trusted."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from tests.contract.tabular import TREE, cancer, diabetes, digits, dump, lgb, xgb
from tests.e2e.long import full
from tests.e2e.server import quick, run_once, serving


def ask(rows: np.ndarray) -> dict[str, object]:
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}]}


@pytest.mark.parametrize("suffix", ["ubj", full("json")])
def test_an_xgboost_file_answers_with_label_and_probabilities(tmp_path: Path, suffix: str) -> None:
    x, y = cancer()
    path = tmp_path / f"cells.{suffix}"
    booster = xgb(path, x, y, objective="binary:logistic")
    with serving(tmp_path, *quick(str(path))) as served:
        document = served.http.get("/v2/models/cells").json()
        assert document["platform"] == "xgboost"
        assert document["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 30]}]
        assert document["outputs"] == [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ]
        told = served.http.get("/v2/models/cells/config").json()["parameters"]
        assert told["forebay.forms"]["string_value"].startswith("runs as ")
        served.wait_logged(told["forebay.forms"]["string_value"])
        served.wait_logged(told["forebay.batching"]["string_value"])
        second = booster.inplace_predict(x)
        for rows in (slice(3, 4), slice(0, 200)):
            answer = served.http.post("/v2/models/cells/infer", json=ask(x[rows])).json()
            label, probabilities = answer["outputs"]
            assert label["data"] == (second[rows] > 0.5).astype(int).tolist()
            got = np.reshape(probabilities["data"], probabilities["shape"])
            np.testing.assert_allclose(got, np.stack([1 - second[rows], second[rows]], axis=1), atol=1e-5)
        short = served.http.post("/v2/models/cells/infer", json={"input": {"input": x[0].tolist()}}).json()
        assert short["output"]["label"] == int(second[0] > 0.5)
        wrong = served.http.post("/v2/models/cells/infer", json=ask(x[:1, :5]))
        assert wrong.status_code == 400
        served.wait_logged("model cells: runs as ")


def test_lightgbm_and_scikit_learn_side_by_side(tmp_path: Path) -> None:
    x, y = diabetes()
    booster = lgb(tmp_path / "sugar.txt", x, y)
    pictures, numbers = digits()
    words = np.array([f"number {n}" for n in numbers])
    forest = dump(tmp_path / "forest.skops", RandomForestClassifier(8, random_state=0).fit(pictures, words))
    models = [str(tmp_path / "sugar.txt"), str(tmp_path / "forest.skops")]
    with serving(tmp_path, *quick(*models), "--set", f"forest.trusted_types={TREE}") as served:
        answer = served.http.post("/v2/models/sugar/infer", json=ask(x[:20])).json()["outputs"]
        assert [output["name"] for output in answer] == ["prediction"]
        np.testing.assert_allclose(answer[0]["data"], booster.predict(x[:20]), rtol=1e-4)
        label, probabilities = served.http.post("/v2/models/forest/infer", json=ask(pictures[:20])).json()["outputs"]
        assert label["data"] == forest.predict(pictures[:20]).tolist()
        assert probabilities["shape"] == [20, 10]


def test_what_is_not_trusted_stops_the_start_with_the_setting_that_trusts_it(tmp_path: Path) -> None:
    x, y = cancer()
    estimator = LogisticRegression(max_iter=2000).fit(x, y)
    joblib.dump(estimator, tmp_path / "m.joblib")
    done = run_once(tmp_path, "serve", str(tmp_path / "m.joblib"), "--port", "0")
    assert done.returncode == 2
    assert "runs whatever code its writer put into it" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "m.toml").write_text("allow_pickle = true\n")
    done = run_once(tmp_path, "serve", str(tmp_path / "m.joblib"), "--port", "0")
    assert done.returncode == 2
    assert "may not stand beside the model" in done.stderr
    (tmp_path / "m.toml").unlink()
    with serving(tmp_path, *quick(str(tmp_path / "m.joblib")), "--set", "m.allow_pickle=true") as served:
        label = served.http.post("/v2/models/m/infer", json=ask(x[:50])).json()["outputs"][0]
        assert label["data"] == estimator.predict(x[:50].astype(np.float64)).tolist()
        holed = x[:3].copy()
        holed[1, 4] = np.nan
        refused = served.http.post("/v2/models/m/infer", content=json.dumps(ask(holed)))
        assert refused.status_code == 400
        assert refused.json() == {
            "error": "input 'input': the value at [1, 4] is NaN, which this model does not take",
            "code": "invalid_request",
        }
