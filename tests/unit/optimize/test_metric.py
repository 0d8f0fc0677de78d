"""A metric of the user's own judges candidates, and tells what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.models import candidates as planted
from tests.unit.optimize.digits import mlp, write_samples
from tests.unit.optimize.test_search import ANY_SPEED, QUICK, Silent, reference

from forebay.core.errors import SetupError
from forebay.optimize.goals import Asked
from forebay.optimize.html import page
from forebay.optimize.judge import Judge
from forebay.optimize.metric import labels_of, open_metric, predictions_of
from forebay.optimize.report import Goals, Report
from forebay.optimize.run import Order, optimize

ROOT = Path(__file__).resolve().parents[3]
RECALL = """
import numpy as np


def recall(predictions, labels):
    said = predictions.argmax(axis=1)
    return np.mean([np.mean(said[labels == one] == one) for one in np.unique(labels)])
"""


def search(folder: Path, metric: str, *candidates: type, max_drop: float | None = 0.02, labels: bool = True) -> Report:
    onnx.save(mlp(), str(folder / "digits.onnx"))
    order = Order(
        source=str(folder / "digits.onnx"),
        samples=write_samples(folder / "samples.npz", 200, labels=labels),
        out=folder / "out",
        asked=Asked(metric="own", function=metric, max_drop=max_drop, min_speedup=ANY_SPEED, effort=QUICK),
        candidates=[
            *map(reference, candidates),
            *([] if candidates else ["forebay.optimize.candidates.static8:Static8Excluded"]),
        ],
    )
    return optimize(order, Silent())


def test_candidates_are_judged_by_it_and_the_report_has_its_name_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "score.py").write_text(RECALL)
    monkeypatch.chdir(tmp_path)
    report = search(tmp_path, "score.py:recall", planted.Planted, planted.OtherModel)
    same, other = report.candidates
    assert (report.goals.metric, report.goals.metric_name) == ("own", "score.py:recall")
    assert report.original.agreement is not None
    assert same.agreement is not None
    value = report.original.agreement.own
    assert value is not None
    assert 0.9 < value <= 1.0
    assert (same.reason, same.agreement.own) == (None, value)
    assert other.reason == "disagrees"
    assert re.match(r"score\.py:recall 0(\.\d+)?; a drop of 0\.9\d* where 0\.02 is allowed", other.detail), other.detail
    assert f"score.py:recall {value:.5g}" in page(report)


def test_recipes_that_look_for_what_holds_look_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "score.py").write_text(RECALL)
    monkeypatch.chdir(tmp_path)
    (excluded,) = search(tmp_path, "score:recall").candidates
    assert excluded.reason in (None, "slower"), excluded.detail
    assert [layer.excluded for layer in excluded.layers] == [False, False]


def judged(folder: Path, function: str, worse: float) -> bool:
    (folder / "score.py").write_text(f"def score(predictions, labels):\n    {function}\n")
    rows = [{"x": np.full(2, index, np.float32)} for index in range(10)]
    goals = Goals(metric="own", function=f"{folder / 'score.py'}:score", max_drop=0.1)
    judge = Judge(goals, rows, [str(index) for index in range(10)], "", "y")
    judge.original(lambda batch: batch["x"])
    return judge.holds(lambda batch: batch["x"] - worse)


@pytest.mark.parametrize(("worse", "holds"), [(0.05, True), (0.2, False), (-1.0, True)])
def test_while_a_recipe_is_made_a_drop_within_the_goal_holds(tmp_path: Path, worse: float, *, holds: bool) -> None:
    assert judged(tmp_path, "return float((predictions[:, 0] - labels).mean())", worse) is holds


def test_it_gets_arrays_that_it_may_change(tmp_path: Path) -> None:
    spoils = "labels[:] = 0; predictions[:] = 0; return 1.0"
    assert judged(tmp_path, spoils, 0.0)
    metric = open_metric(f"{tmp_path / 'score.py'}:score", ["1", "2"])
    answers = [np.ones(3, np.float32)] * 2
    metric.value(answers)
    assert (metric.labels.tolist(), answers[0].tolist()) == ([1, 2], [1, 1, 1])


@pytest.mark.parametrize(
    ("labels", "kind", "values"),
    [
        (["3", "10"], "int64", [3, 10]),
        (["3", "0.5"], "float64", [3.0, 0.5]),
        (["3", "spam"], "<U4", ["3", "spam"]),
    ],
)
def test_labels_are_numbers_where_all_are(labels: list[str], kind: str, values: list[object]) -> None:
    found = labels_of(labels)
    assert (str(found.dtype), found.tolist()) == (kind, values)


def test_predictions_are_one_array_unless_samples_differ_in_shape() -> None:
    assert predictions_of([np.zeros(3, np.float32)] * 5).shape == (5, 3)
    assert [one.shape for one in predictions_of([np.zeros((2, 3)), np.zeros((4, 3))])] == [(2, 3), (4, 3)]


BROKEN = [
    ("return float('nan')", "returned nan, which is not a finite number"),
    ("return 1e400", "returned inf, which is not a finite number"),
    ("return None", "returned None (NoneType), which is not a number"),
    ("return '0.9'", "returned '0.9' (str), which is not a number"),
    ("return predictions", "which is not a number"),
    ("return predictions[0, 99]", "raised IndexError: index 99 is out of bounds"),
    ("raise SystemExit('no')", "raised SystemExit: no (with float32 [100, 10] and int64 [100])"),
]


@pytest.mark.parametrize(("body", "told"), BROKEN)
def test_one_without_a_value_for_the_original_ends_the_search_with_the_reason(
    tmp_path: Path, body: str, told: str
) -> None:
    file = tmp_path / "score.py"
    file.write_text(f"def score(predictions, labels):\n    {body}\n")
    with pytest.raises(SetupError) as raised:
        search(tmp_path, f"{file}:score")
    assert told in raised.value.message
    assert f"--metric {file}:score" in raised.value.message
    assert "(predictions, labels)" in raised.value.message


def test_one_without_a_value_for_a_candidate_rejects_that_candidate(tmp_path: Path) -> None:
    file = tmp_path / "score.py"
    file.write_text(
        "def score(predictions, labels):\n"
        "    if (predictions.argmax(axis=1) == labels).mean() < 0.5:\n"
        "        raise ValueError('too far off to be judged')\n"
        "    return 1.0\n"
    )
    other, same = search(tmp_path, f"{file}:score", planted.OtherModel, planted.Planted).candidates
    assert (other.reason, same.reason) == ("disagrees", None)
    assert "raised ValueError: too far off to be judged" in other.detail


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("gone.py:score", "there is no file"),
        ("score.py:gone", "has no attribute 'gone'"),
        ("score.py:PI", "is float, no function"),
        ("gone_module:score", "No module named 'gone_module'"),
        ("broken.py:score", "ZeroDivisionError"),
    ],
)
def test_one_that_cannot_be_opened_ends_the_search_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, told: str
) -> None:
    (tmp_path / "score.py").write_text("PI = 3.14\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError) as raised:
        search(tmp_path, metric)
    assert f"--metric {metric}" in raised.value.message
    assert told in raised.value.message
    assert "write module:function or file.py:function" in raised.value.message


def test_it_needs_labels_and_the_drop_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(RECALL)
    metric = f"{tmp_path / 'score.py'}:recall"
    with pytest.raises(SetupError, match="needs labels in the samples"):
        search(tmp_path, metric, labels=False)
    with pytest.raises(SetupError, match="needs --max-drop: how much lower its value may be"):
        search(tmp_path, metric, max_drop=None)


def test_samples_that_tell_nothing_by_it_end_the_search(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(predictions, labels):\n    return 0.5\n")
    with pytest.raises(SetupError, match=r"tell nothing.*score\.py:score 0\.5.*by --metric"):
        search(tmp_path, f"{tmp_path / 'score.py'}:score")


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "optimize.md").read_text("utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "# score.py" in block]
    (tmp_path / "score.py").write_text(example)
    metric = open_metric(f"{tmp_path / 'score.py'}:recall", ["0", "0", "0", "1"])
    assert metric.value([np.array([1.0, 0.0])] * 4) == pytest.approx(0.5)
