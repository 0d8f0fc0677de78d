"""Variants as a stranger sets them up: measured by one command, answering under load, never below the floor."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.e2e.long import full
from tests.e2e.server import MODELS, Served, eventually, quick, run_once, serving

LARGE, FAST, FASTEST = (f"{MODELS / 'varied.py'}:{name}" for name in ("Large", "Fast", "Fastest"))
NAMES = {1: "large", 2: "fast", 3: "fastest"}


def points(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0, 1, (rows, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the command wrote."""
    folder = tmp_path_factory.mktemp("measured")
    np.savez(folder / "points.npz", x=points(300))
    ran = run_once(folder, "variants", LARGE, FASTEST, FAST, "--samples", "points.npz", "--out", "variants.json")
    assert ran.returncode == 0, ran.stderr
    assert "300 rows, by output p (probabilities)" in ran.stdout
    return folder / "variants.json"


def test_the_most_accurate_stands_first(measured: Path) -> None:
    found = json.loads(measured.read_bytes())
    names = [one["name"] for one in found["variants"]]
    assert (found["model"]["name"], found["model"]["accuracy"], names) == ("large", 1.0, ["fast", "fastest"])
    assert [one["accuracy"] for one in found["variants"]] == pytest.approx([0.97, 0.71], abs=0.06)
    rates = [found["model"]["rows_per_s"], *(one["rows_per_s"] for one in found["variants"])]
    assert rates == sorted(rates)


def test_with_labels_accuracy_is_by_them(tmp_path: Path) -> None:
    x = points(200)
    angle = np.arctan2(x[:, 1], x[:, 0]) + np.pi + 0.06  # as the fast one says
    np.savez(tmp_path / "labelled.npz", x=x, labels=(angle / (2 * np.pi / 3)).astype(int) % 3)
    ran = run_once(tmp_path, "variants", LARGE, FAST, "--samples", "labelled.npz", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["labelled"], found["variants"][0]["accuracy"]) == (True, 1.0)
    assert found["model"]["accuracy"] == found["variants"][0]["agreement"] < 1.0


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [
        full(["red", "green"] * 50, 0, "labels are not used, only agreement with large is measured: 'red' is none of"),
        ([0, 1] * 50, 2, "points.npz: its labels tell nothing: by them large itself is right in"),
    ],
)
def test_labels_that_are_not_the_models_are_told(tmp_path: Path, labels: list[Any], code: int, said: str) -> None:
    np.savez(tmp_path / "points.npz", x=points(100), labels=labels)
    ran = run_once(tmp_path, "variants", LARGE, FAST, "--samples", "points.npz")
    assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
    assert ran.stderr.startswith("asking large about 100 rows\n")


def test_a_form_that_helps_nobody_is_left_out_and_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", x=points(100))
    ran = run_once(tmp_path, "variants", FAST, LARGE, FASTEST, "--samples", "points.npz", "--json")
    assert ran.returncode == 0, ran.stderr
    assert [one["name"] for one in json.loads(ran.stdout)["variants"]] == ["fastest"]
    assert "large is left out: accurate in 9" in ran.stderr
    assert "where fast is in 100.00% at" in ran.stderr


PRICE, NEAR, OFF = (f"{MODELS / 'priced.py'}:{name}" for name in ("Price", "Near", "Off"))


@pytest.mark.parametrize(
    ("options", "tolerance", "near"),
    [
        full([], 0.1, 1.0),
        (["--output", "price", "--tolerance", "0.1%"], 0.001, 0.0),
    ],
)
def test_single_numbers_are_compared_by_how_far_apart_they_are(
    tmp_path: Path, options: list[str], tolerance: float, near: float
) -> None:
    x = points(100)
    np.savez(tmp_path / "points.npz", x=x)
    ran = run_once(tmp_path, "variants", PRICE, NEAR, OFF, "--samples", "points.npz", "--json", *options)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["output"], found["judge"], found["model"]["agreement"]) == ("price", "numbers", 1.0)
    assert {one["name"]: one["agreement"] for one in found["variants"]} == {"near": near, "off": 0.0}
    assert found["most_apart"] == pytest.approx(tolerance * np.std(10 * x.sum(axis=1)), rel=1e-3)


@pytest.fixture
def served(measured: Path, tmp_path: Path) -> Iterator[Served]:
    settings = (
        f"variants={measured}",
        "variant_min_accuracy=0.9",
        "variant_up_after_s=0.5",
        "variant_shadow_rate=0",
        "slo_ms=300",
        "cache=exact",
    )
    arguments = [part for setting in settings for part in ("--set", f"large.{setting}")]
    with serving(tmp_path, *quick(LARGE, FAST, FASTEST), *arguments) as served:
        yield served


def by(answer: httpx.Response) -> str:
    """Who answered, by the row and by the header."""
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    name = NAMES[outputs["by"][0]]
    if answer.headers["x-cache"] == "miss":
        assert answer.headers["x-model-variant"] == name
    return name


def ask(served: Served, row: Any, **parameters: Any) -> httpx.Response:
    return served.infer("large", [np.asarray(row).tolist()], **parameters)


def test_under_load_the_faster_one_answers_but_none_below_the_floor(served: Served) -> None:
    assert by(ask(served, [1.0, 1.0])) == "large"
    rows = np.random.default_rng(2).normal(0, 1, (900, 2))
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda row: ask(served, row), rows))
    who = Counter(by(answer) for answer in answers if answer.status_code == 200)
    assert who["fast"] > 300, who
    assert who["fastest"] == 0
    served.wait_logged("model large steps down: fast answers")

    def asked_now_and_then() -> str:
        time.sleep(0.05)  # it goes up once the model has time for what comes: 100 rows a second
        return by(ask(served, np.random.default_rng().normal(0, 1, 2)))

    eventually(lambda: asked_now_and_then() == "large", "it answers again")
    served.wait_logged("model large steps up: large answers")
    # What a variant has said is not served as the model's own, nor the other way round.
    assert {by(ask(served, row)) for row in rows[-5:]} == {"large"}
    assert ask(served, [1.0, 1.0]).headers["x-cache"] == "exact"


def test_who_names_one_gets_that_one(served: Served) -> None:
    assert by(ask(served, [0.5, 0.5], variant="fast")) == "fast"
    assert by(ask(served, [0.5, 0.5], variant="large")) == "large"
    refused = ask(served, [0.5, 0.5], variant="fastest")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert "of 'large' there are large, fast" in refused.json()["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([LARGE, FAST, "--samples", "few.npz"], "20 rows that differ say little; give 100 or more"),
        full([LARGE, FAST, "--samples", "points.npz", "--output", "q"], "--output q: the models have no such output"),
        full([LARGE, FAST, "--samples", "points.npz", "--output", "by"], "compared by an output of numbers"),
        ([LARGE, FAST, "--samples", "points.npz", "--out", "no/v.json"], "--out no/v.json: there is no folder"),
        full(
            [LARGE, FAST, "--samples", "points.npz", "--tolerance", "0"], "--tolerance 0: write a share between 0 and 1"
        ),
        full([FASTEST, LARGE, "--samples", "points.npz"], "none is faster than fastest by 5 % or more, which"),
        ([LARGE, f"{MODELS / 'plain.py'}:Echo", "--samples", "points.npz"], "both must have the same names"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    np.savez(tmp_path / "few.npz", x=points(20))
    np.savez(tmp_path / "points.npz", x=points(100))
    ran = run_once(tmp_path, "variants", *arguments)
    assert ran.returncode != 0
    assert said in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr
    # What can be told at once is told before a model is asked.
    assert ("asking" in ran.stderr) == ("none is faster" in said)


def test_a_floor_that_none_keeps_stops_the_start(measured: Path, tmp_path: Path) -> None:
    settings = ["--set", f"large.variants={measured}", "--set", "large.variant_min_accuracy=0.999"]
    ran = run_once(tmp_path, "serve", LARGE, FAST, FASTEST, *settings, "--port", "0")
    assert ran.returncode != 0
    assert "no variant keeps variant_min_accuracy = 0.999: fast has 0.9" in ran.stderr + ran.stdout
