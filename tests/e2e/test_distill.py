"""`forebay distill` as a stranger runs it: a teacher and rows in, a student that is served out; kills and refusals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.e2e.server import COMMAND, ROOT, environment, eventually, quick, serving
from tests.unit.optimize.digits import SEEN, cnn, digits, mlp
from tests.unit.optimize.test_folders import bert_weights, folder_of

WORDS = ("good", "great", "lovely", "bad", "awful", "dull")
OTHERS = (
    "the",
    "film",
    "we",
    "saw",
    "was",
    "today",
    "and",
    "it",
    "ended",
    "with",
    "a",
    "song",
    "that",
    "nobody",
    "knew",
)


PATH = os.pathsep.join(map(str, (ROOT, ROOT / "src")))


def run(folder: Path, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "distill", *words],
        cwd=folder,
        env=environment(PYTHONPATH=PATH),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def report_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def write_texts(file: Path, count: int, seed: int, *, labels: bool = False) -> list[str]:
    """Short texts, each with one word that decides."""
    chosen = random.Random(seed)
    lines = []
    for _ in range(count):
        words = [chosen.choice(OTHERS) for _ in range(chosen.randint(3, 9))]
        words[chosen.randrange(len(words))] = chosen.choice(WORDS)
        lines.append(" ".join(words))
    if labels:
        rows = [f"{line},{int(any(word in line.split() for word in WORDS[:3]))}" for line in lines]
        file.write_text("\n".join(["text,label", *rows]) + "\n")
    else:
        file.write_text("\n".join(lines) + "\n")
    return lines


def write_pictures(folder: Path, shape: Sequence[int]) -> None:
    """Pictures without labels to learn from, and others with labels to judge by."""
    x, y = digits()
    np.savez(folder / "seen.npz", allow_pickle=False, x=x[:SEEN].reshape(-1, *shape))
    np.savez(folder / "test.npz", allow_pickle=False, x=x[SEEN:].reshape(-1, *shape), labels=y[SEEN:])


def test_a_teacher_of_numbers_is_distilled_served_and_not_asked_twice(tmp_path: Path) -> None:
    onnx.save(mlp(), str(tmp_path / "digits.onnx"))
    write_pictures(tmp_path, (64,))
    words = ("digits.onnx", "--samples", "seen.npz", "--test", "test.npz", "--rounds", "0", "--student", "linear")
    ended = run(tmp_path, *words, "-o", "student", "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "digits is in student" in ended.stderr
    report = json.loads(ended.stdout)
    assert report == report_in(tmp_path / "student")
    assert (report["teacher"]["form"], report["transfer"]["asked"], report["transfer"]["test"]) == ("logits", SEEN, 597)
    quality = report["quality"]
    assert quality["agreement"] > 0.95
    assert quality["share_kept"] == pytest.approx(quality["student_accuracy"] / quality["teacher_accuracy"])
    assert 0.0 < quality["student_calibration_error"] < 0.2
    assert [one["name"] for one in quality["classes"]] == [str(place) for place in range(10)]
    assert report["gate"]["reason"] is None
    assert report["gate"]["speed"] is None
    page = (tmp_path / "student" / "report.html").read_text()
    assert "held-out agreement" in page
    assert "http://" not in page.replace('xmlns="http://www.w3.org', "")

    x = digits()[0][SEEN : SEEN + 20]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
    with serving(tmp_path, *quick("student")) as served:
        described = served.http.get("/v2/models/digits").json()
        answer = served.http.post("/v2/models/digits/infer", json=body).json()["outputs"][0]
    assert [(one["name"], one["datatype"], one["shape"]) for one in described["inputs"]] == [("x", "FP32", [-1, 64])]
    assert [(one["name"], one["shape"]) for one in described["outputs"]] == [("logits", [-1, 10])]
    assert answer["shape"] == [20, 10]

    # Another student learns from answers that are there. One that agrees too little takes the place of nobody.
    again = run(tmp_path, *words[:-1], "tree", "-o", "student")
    assert again.returncode == 1, again.stderr + again.stdout
    assert "disagrees: same class in" in again.stdout
    report = report_in(tmp_path / "student")
    assert (report["transfer"]["asked"], report["transfer"]["known"]) == (0, SEEN)
    assert report["gate"]["reason"] == "disagrees"
    assert not (tmp_path / "student" / "digits").exists()


@pytest.mark.full
def test_a_teacher_of_texts_becomes_a_student_that_takes_and_answers_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    write_texts(tmp_path / "texts.txt", 600, seed=0)
    lines = write_texts(tmp_path / "test.csv", 200, seed=1, labels=True)
    teacher = f"{ROOT / 'tests' / 'models' / 'teachers.py'}:Keyword"
    ended = run(
        tmp_path, teacher, "--samples", "texts.txt", "--test", "test.csv", "--student", "static-embedding", "--epochs",
        "8", "--batch", "32", "--classes", "bad,good", "--rounds", "0", "-o", "student",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "asking keyword about 5" in ended.stdout
    assert "epoch 1: loss" in ended.stdout
    report = report_in(tmp_path / "student")
    assert (report["quality"]["teacher_accuracy"], report["quality"]["agreement"] > 0.95) == (1.0, True)
    assert [one["name"] for one in report["quality"]["classes"]] == ["bad", "good"]
    assert sorted(report["student"]["files"]) == ["model.py", "student.onnx", "tokenizer.json"]
    with serving(tmp_path, *quick("student")) as served:
        described = served.http.get("/v2/models/keyword").json()
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [200, 1], "data": lines}]}
        answer = served.http.post("/v2/models/keyword/infer", json=body).json()["outputs"][0]
        empty = served.http.post("/v2/models/keyword/infer", json={"input": {"text": [""]}}).json()
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [("text", "BYTES")]
    assert [(one["name"], one["shape"]) for one in described["outputs"]] == [("probabilities", [-1, 2])]
    found = np.reshape(answer["data"], (200, 2))
    liked = np.array([any(word in line.split() for word in WORDS[:3]) for line in lines])
    assert np.mean(found.argmax(axis=1) == liked) == pytest.approx(report["quality"]["student_accuracy"])
    assert sum(empty["output"]["probabilities"]) == pytest.approx(1.0, abs=1e-5)


def test_a_file_of_answers_teaches_without_the_teacher(tmp_path: Path) -> None:
    x, y = digits()
    weights = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)
    np.savez(tmp_path / "logged.npz", allow_pickle=False, **{"x": x, "output.logits": x @ weights, "labels": y})
    ended = run(tmp_path, "--teacher-outputs", "logged.npz", "--student", "linear", "--rounds", "0", "-o", "student")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = report_in(tmp_path / "student")
    assert (report["name"], report["teacher"]["model"], report["gate"]["teacher_rows_per_s"]) == ("logged", "", None)
    assert report["quality"]["agreement"] > 0.95
    assert (tmp_path / "student" / "logged" / "1" / "model.onnx").is_file()


@pytest.mark.full
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    x[:2, 0] = -4.0
    np.savez(tmp_path / "rows.npz", allow_pickle=False, x=x)
    teacher = f"{ROOT / 'tests' / 'models' / 'teachers.py'}:Slow"
    words = ("distill", teacher, "--samples", "rows.npz", "--student", "linear", "--rounds", "0")
    first = subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        env=environment(PYTHONPATH=PATH),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    kept = tmp_path / ".forebay" / "distill"
    eventually(lambda: sum(file.stat().st_size for file in kept.rglob("*.rows")) > 2000, "some answers are kept", 60)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = run(tmp_path, *words[1:])
    assert second.returncode == 0, second.stderr + second.stdout
    assert "rows left out: 2 that the teacher did not answer" in second.stdout
    transfer = report_in(tmp_path / "distilled")["transfer"]
    assert transfer["known"] >= 10
    assert (transfer["asked"] + transfer["known"], transfer["failed"]) == (300, 2)


@pytest.mark.full
def test_logged_requests_teach_with_the_answers_that_were_given(tmp_path: Path) -> None:
    onnx.save(mlp(), str(tmp_path / "digits.onnx"))
    x = digits()[0][:300]
    with serving(tmp_path, *quick("digits.onnx"), "--set", "digits.request_log=1.0") as served:
        for start in range(0, 300, 10):
            rows = x[start : start + 10]
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [10, 64], "data": rows.ravel().tolist()}]}
            assert served.http.post("/v2/models/digits/infer", json=body).status_code == 200
    ended = run(tmp_path, "digits.onnx", "--from-log", "digits", "--student", "linear", "--rounds", "0")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    transfer = report_in(tmp_path / "distilled")["transfer"]
    # The log knows each row once, and its digest is the teacher's: nothing is asked.
    assert (transfer["asked"], transfer["known"]) == (0, transfer["rows"])
    assert transfer["rows"] > 250
    refused = run(tmp_path, "digits.onnx", "--from-log", "digit", "--student", "linear")
    assert (refused.returncode, "is logged below" in refused.stderr) == (2, True)


FACTORY = """\
import torch


class Net(torch.nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(features, 32), torch.nn.ReLU(), torch.nn.Linear(32, width))

    def forward(self, x):
        return self.layers(x)


def factory(inputs, outputs):
    return Net(inputs["x"][1][0], outputs["logits"][1][0])


def wrong(inputs, outputs):
    return "net"


def narrow(inputs, outputs):
    return Net(inputs["x"][1][0], 3)
"""


@pytest.mark.full
def test_a_torch_module_of_ones_own_learns_and_what_is_none_is_told(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    onnx.save(mlp(), str(tmp_path / "digits.onnx"))
    write_pictures(tmp_path, (64,))
    (tmp_path / "net.py").write_text(FACTORY)
    words = ("digits.onnx", "--samples", "seen.npz", "--rounds", "0")
    for factory, told in (
        ("wrong", "returned str; it must be a function (inputs, outputs) that returns a torch.nn.Module"),
        ("narrow", "one tensor [64, 10]"),
        ("none", "net.py has no function 'none'"),
    ):
        refused = run(tmp_path, *words, "--student", f"net.py:{factory}")
        assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    ended = run(tmp_path, *words, "--student", "net.py:factory", "--loss", "kl=1,mse=0.1")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert report_in(tmp_path / "distilled")["student"]["losses"] == {"kl": 1.0, "mse": 0.1}


@pytest.mark.full
def test_pictures_are_learned_by_a_small_cnn_with_labels(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    onnx.save(cnn(), str(tmp_path / "digits.onnx"))
    write_pictures(tmp_path, (1, 8, 8))
    x, y = digits()
    np.savez(tmp_path / "seen.npz", allow_pickle=False, x=x[:SEEN].reshape(-1, 1, 8, 8), labels=y[:SEEN])
    ended = run(
        tmp_path, "digits.onnx", "--samples", "seen.npz", "--test", "test.npz", "--student", "cnn", "--loss",
        "kl=1,labels=0.5", "--rounds", "1", "--min-speedup", "0",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = report_in(tmp_path / "distilled")
    assert report["quality"]["agreement"] > 0.93
    assert report["gate"]["invariance"]["holds"]
    assert report["gate"]["teacher_rows_per_s"] > 0
    assert "of the teacher's" in (tmp_path / "distilled" / "report.html").read_text()


@pytest.mark.full
def test_a_bert_gives_every_second_layer(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    folder_of(tmp_path / "bert", bert_weights(layers=4, classes=2), num_hidden_layers=4)
    chosen = np.random.default_rng(0)
    rows = [chosen.integers(0, 10, chosen.integers(3, 12)).tolist() for _ in range(300)]
    lines = [json.dumps({"input_ids": row, "attention_mask": [1] * len(row)}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    ended = run(
        tmp_path, "bert", "--samples", "rows.jsonl", "--student", "every-nth-layer", "--rate", "0.001", "--epochs", "3",
        "--min-agreement", "0.75", "--rounds", "0",
    )  # fmt: skip
    report = report_in(tmp_path / "distilled")
    assert report["student"]["about"] == "layers 1, 3 of 4", ended.stderr
    assert report["gate"]["reason"] in (None, "disagrees")
    assert report["gate"]["export_error"] < 1e-4


@pytest.mark.full
def test_a_teacher_that_fails_on_everything_is_told_with_its_reason(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "rows.npz",
        allow_pickle=False,
        x=np.full((2000, 4), -5.0, np.float32) + np.arange(2000)[:, None] / -1e3,
    )
    teacher = f"{ROOT / 'tests' / 'models' / 'teachers.py'}:Slow"
    refused = run(tmp_path, teacher, "--samples", "rows.npz", "--student", "linear")
    assert refused.returncode == 2
    assert "the teacher answers none of 50 rows" in refused.stderr
    assert "that is too little" in refused.stderr
    assert "Traceback" not in refused.stderr
