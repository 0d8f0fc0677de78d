"""A cascade as a stranger sets it up: measured by one command, served by another, watched from then on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.e2e.long import full
from tests.e2e.roles import announced, house
from tests.e2e.server import MODELS, Served, body, eventually, quick, run_once, serving

LARGE, SMALL = f"{MODELS / 'cascaded.py'}:Large", f"{MODELS / 'cascaded.py'}:Small"
PRICE, NEAR = f"{MODELS / 'priced.py'}:Price", f"{MODELS / 'priced.py'}:Near"
SURE, UNSURE = [3.0, -0.5], [0.1, 1.0]


def points(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0, [2, 0.5], (rows, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the command wrote."""
    folder = tmp_path_factory.mktemp("calibrated")
    np.savez(folder / "points.npz", x=points(2000))
    ran = run_once(
        folder,
        *("cascade", LARGE, SMALL, "--samples", "points.npz", "--out", "cascade.json", "--plot", "cascade.png"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "student    answers " in ran.stdout
    assert "0.99 wanted" in ran.stdout
    assert (folder / "cascade.png").stat().st_size > 1000
    return folder / "cascade.json"


def test_what_the_command_wrote_holds_for_other_rows(calibrated: Path) -> None:
    found = json.loads(calibrated.read_bytes())
    assert (found["student_name"], found["output"], found["form"], found["rows"]) == (
        "small",
        "p",
        "probabilities",
        2000,
    )
    rows = np.random.default_rng(1).normal(0, [2, 0.5], (20_000, 2))
    sure = 1 / (1 + np.exp(-4 * np.abs(rows[:, 0]))) >= found["threshold"]
    wrong = sure & ((rows.sum(axis=1) > 0) != (rows[:, 0] > 0))
    assert wrong.mean() <= 0.01
    assert sure.mean() == pytest.approx(found["answered"] / 2000, abs=0.05)


@pytest.fixture
def served(calibrated: Path, tmp_path: Path) -> Iterator[Served]:
    arguments = [*quick(LARGE, SMALL), "--set", f"large.cascade={calibrated}", "--set", "large.cascade_shadow_rate=0.1"]
    with serving(tmp_path, *arguments) as served:
        yield served


def by(answer: httpx.Response) -> tuple[str, list[int]]:
    """Who answered, by the header and by the rows."""
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    return answer.headers["x-cascade"], outputs["by"]


def test_each_row_is_answered_by_whom_it_concerns_and_falls_back_by_itself(served: Served, tmp_path: Path) -> None:
    assert by(served.infer("large", [SURE])) == ("student", [2])
    assert by(served.infer("large", [UNSURE])) == ("teacher", [1])
    assert by(served.infer("large", [SURE, UNSURE, SURE])) == ("both", [2, 1, 2])
    assert by(served.infer("large", [SURE], cascade=False)) == ("teacher", [1])
    plain = served.infer("small", [UNSURE])
    assert "x-cascade" not in plain.headers
    # The path around the lane, and a job.
    assert by(served.http.post("/v2/models/large/versions/1/infer?", json=body([SURE]))) == ("student", [2])
    job = served.http.post("/v1/models/large/jobs", json=body([SURE, UNSURE]), headers={"prefer": "wait=20"})
    assert job.status_code == 200, job.text
    output = {one["name"]: one["data"] for one in job.json()["output"]["outputs"]}
    assert output["by"] == [2, 1]
    assert "cascade on: small answers" in served.output
    # The teacher changes.
    (tmp_path / "drift").touch()
    requests = 0
    while by(served.infer("large", [SURE]))[0] == "student":
        requests += 1
        assert requests < 1000
    eventually(lambda: served.metric("forebay_cascade_off", "large") == 1, "it is told")
    served.wait_logged("answers everything itself from now on")
    told = served.http.get("/v2/models/large/config").json()["parameters"]["forebay.cascade"]["string_value"]
    assert told.startswith("off: of the last")


def test_workers_ask_the_student_for_web_processes_and_jobs(calibrated: Path, tmp_path: Path) -> None:
    settings = (f"cascade={calibrated}", "cascade_shadow_rate=1", "cache=exact", "deterministic=true")
    arguments = [part for setting in settings for part in ("--set", f"large.{setting}")]
    with house(tmp_path) as built:
        web = built.web()
        worker = built.worker("worker", LARGE, SMALL, *arguments)
        web.wait_ready()
        announced(web, "large")

        def ask(row: list[float]) -> tuple[str, list[int]]:
            answer = web.infer("large", [row])
            assert answer.status_code == 200, answer.text
            outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            return answer.headers["x-cache"], outputs["by"]

        assert by(web.infer("large", [[2.5, 0.0]])) == ("student", [2])
        assert (ask(SURE), ask(UNSURE)) == (("miss", [2]), ("miss", [1]))
        job = web.http.post("/v1/models/large/jobs", json=body([[3.5, 0.0], UNSURE]), headers={"prefer": "wait=20"})
        assert job.status_code == 200, job.text
        assert next(one["data"] for one in job.json()["output"]["outputs"] if one["name"] == "by") == [2, 1]
        eventually(lambda: ask(SURE) == ("exact", [2]), "it is kept")
        (worker.folder / "drift").touch()
        for place in range(100):
            ask([4.0 + place / 100, 0.0])
        eventually(lambda: worker.logged("answers everything itself from now on"), "it falls back")
        eventually(lambda: ask(SURE) == ("exact", [1]), "what the student has said is not served any more")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([LARGE, SMALL, "--samples", "few.npz"], "an agreement of 0.99 takes at least 368 rows to show; there are 20"),
        full(
            [LARGE, SMALL, "--samples", "few.npz", "--agreement", "2"], "--agreement 2: write a share between 0 and 1"
        ),
        full([LARGE, SMALL, "--samples", "few.npz", "--output", "q"], "--output q: the models have no such output"),
        (
            [LARGE, SMALL, "--samples", "few.npz", "--output", "by"],
            "by: a cascade needs an output of one number for",
        ),
        (
            [LARGE, SMALL, "--samples", "nan.npz"],
            "nan.npz, sample 7, where x holds NaN or infinity: small answers NaN or infinity in output 'p'",
        ),
        full([LARGE, SMALL, "--samples", "nan.npz", "--out", "no/c.json"], "--out no/c.json: there is no folder"),
        full([LARGE, SMALL, "--samples", "none.npz"], "--samples none.npz: No such file"),
        full([LARGE, LARGE, "--samples", "few.npz"], "two models are called 'large'"),
        ([LARGE, f"{MODELS / 'plain.py'}:Echo", "--samples", "few.npz"], "both must have the same names"),
        ([LARGE, "pair", "--samples", "few.npz"], "and pair hold large, one, other"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    np.savez(tmp_path / "few.npz", x=points(20))
    with_nan = points(400)
    with_nan[6, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x=with_nan)
    for name in ("one", "other"):
        folder = tmp_path / "pair" / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(MODELS / "cascaded.py", folder / "model.py")
        (folder.parent / "model.toml").write_text('class = "Small"\n')
    ran = run_once(tmp_path, "cascade", *arguments)
    assert ran.returncode != 0
    assert said in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr
    # What can be told at once is told before a model is asked.
    assert ("asking" in ran.stderr) == ("answers NaN" in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([LARGE, SMALL, "--samples", "one.npz"], "says class 1 to 500 of 500 rows (100.00%), and --agreement wants 99"),
        full(
            [LARGE, SMALL, "--samples", "few.npz"], "says class 1 to 498 of 500 rows (99.60%), and --agreement wants 99"
        ),
        (
            [PRICE, NEAR, "--samples", "one.npz"],
            "the models have price FP32[1]; if price is one, say so: --output price",
        ),
        full([PRICE, NEAR, "--samples", "one.npz", "--output", "price"], "such as prices, take no cascade"),
    ],
)
def test_rows_that_would_show_any_student_to_be_good_calibrate_none(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    one_sided = np.abs(points(500)) + 0.1
    np.savez(tmp_path / "one.npz", x=one_sided)
    one_sided[:2] *= -1
    np.savez(tmp_path / "few.npz", x=one_sided)
    ran = run_once(tmp_path, "cascade", *arguments, "--out", "cascade.json")
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert not (tmp_path / "cascade.json").exists()


@pytest.mark.parametrize(
    ("seventh", "arguments", "said"),
    [
        (0.5, (), ""),
        (99.0, (), "--samples rows.jsonl, sample 7: teacher has no answer to it: ValueError: a number is above 90"),
        (0.5, ("--output", "hidden"), "output 'hidden' of student differs in shape from row to row"),
    ],
)
def test_rows_of_different_lengths_are_compared_where_they_can_be_and_one_without_an_answer_is_named(
    tmp_path: Path, seventh: float, arguments: tuple[str, ...], said: str
) -> None:
    random = np.random.default_rng(0)
    rows = [random.normal(0, 1, random.integers(1, 9)).tolist() for _ in range(400)]
    rows[6] = [seventh]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"x": row}) + "\n" for row in rows))
    models = [f"{MODELS / 'awkward.py'}:{name}" for name in ("Teacher", "Student")]
    ran = run_once(tmp_path, "cascade", *models, "--samples", "rows.jsonl", *arguments)
    assert (ran.returncode, said in ran.stderr, "Traceback" in ran.stderr) == (2 if said else 0, True, False), (
        ran.stderr
    )


def test_a_student_that_was_not_measured_stops_the_start(calibrated: Path, tmp_path: Path) -> None:
    text = (MODELS / "cascaded.py").read_text()
    (tmp_path / "other.py").write_text(text.replace("class Large", "class Unused"))
    arguments = [LARGE, "other.py:Small", "--set", f"large.cascade={calibrated}", "--port", "0"]
    ran = run_once(tmp_path, "serve", *arguments)
    assert ran.returncode != 0
    assert "another student than the one served; calibrate anew" in ran.stderr + ran.stdout
