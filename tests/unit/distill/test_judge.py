"""The gate: what a student's file may not do, and what is left of it in the folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.distill.lessons import Heard, linear_answers, numbers, numeric_subject, part

from forebay.core.errors import SetupError
from forebay.distill import output
from forebay.distill.html import page
from forebay.distill.judge import Asked, Judge, TimedTeacher, disagreement
from forebay.distill.plots import Line, lines, spark
from forebay.distill.report import (
    ClassReport,
    Disagreement,
    Epoch,
    GateReport,
    Quality,
    Report,
    StudentReport,
    TeacherReport,
    TransferReport,
    encoded,
)
from forebay.distill.students.classic import Linear
from forebay.distill.students.port import Plan
from forebay.models.artefact import ServedWith
from forebay.optimize.report import MachineReport
from forebay.tune.forms import forms_of

MODELS = """\
import numpy as np
import forebay

class Right(forebay.Model):
    inputs = {"x": ("FP32", [6])}
    outputs = {"y": ("FP32", [2])}
    def predict(self, x):
        return np.stack([x[:, 0], x[:, 1]], axis=1)

class Company(Right):
    def predict(self, x):
        return super().predict(x) + x.mean(axis=0)[:2] * (len(x) > 1)

class Nan(Right):
    def predict(self, x):
        return super().predict(x) * (np.nan if len(x) > 1 else 1)

class Moody(Right):
    calls = 0
    def predict(self, x):
        Moody.calls += 1
        return super().predict(x) + (Moody.calls > 290)

class Sleeps(Right):
    def predict(self, x):
        import time
        time.sleep(0.002)
        return super().predict(x)

class Named(Right):
    outputs = {"z": ("FP32", [2])}

class Ends(Right):
    def predict(self, x):
        import os
        os._exit(3)
"""


@pytest.mark.parametrize(
    ("name", "reason", "told"),
    [
        ("Right", None, ""),
        ("Company", "batch_variant", "a row alone and in a batch differ by up to"),
        ("Nan", "not_finite", "answers in batches hold NaN"),
        ("Named", "wrong_signature", "its outputs are z FP32[-1, 2]; the teacher's y FP32[-1, 2]"),
        pytest.param("Ends", "crashed", "exit code 3", marks=pytest.mark.full),
        pytest.param("Moody", "not_repeatable", "asked again gets another answer", marks=pytest.mark.full),
    ],
)
def test_a_file_is_judged_by_what_it_does(name: str, reason: str | None, told: str, tmp_path: Path) -> None:
    (tmp_path / "student.py").write_text(MODELS)
    rows = numbers(70)
    wanted = np.stack([row["x"][:2] for row in rows])
    subject = numeric_subject(wanted, "logits")
    judge = Judge(subject, Asked(rounds=0), rows, tmp_path, Heard())
    judged = judge.judge(f"{tmp_path / 'student.py'}:{name}", wanted, None)
    assert (judged.gate.reason, told in judged.gate.detail) == (reason, True), judged.gate.detail
    if reason is None:
        assert judged.answers is not None
        assert np.array_equal(judged.answers, wanted)


def test_a_file_that_answers_otherwise_than_what_was_trained_is_no_student(tmp_path: Path) -> None:
    rows = numbers(100)
    wanted = linear_answers(rows)
    subject = numeric_subject(wanted)
    student = Linear(subject, Plan())
    whole = part(rows, wanted)
    student.fit(whole, whole, lambda epoch: None)
    trained = student.answer(rows)
    trained[7] += 0.01
    judged = Judge(subject, Asked(rounds=0), rows, tmp_path, Heard()).judge(
        str(tmp_path / student.write(tmp_path)), trained, None
    )
    assert judged.gate.reason == "export_differs"
    assert "in 1.00% of the rows" in judged.gate.detail


def test_a_student_is_timed_beside_its_teacher(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    rows = numbers(40)
    wanted = np.stack([row["x"][:2] for row in rows])
    judge = Judge(numeric_subject(wanted, "logits"), Asked(rounds=1, round_s=0.005), rows, tmp_path, Heard())
    teacher = TimedTeacher(f"{tmp_path / 'models.py'}:Sleeps", ServedWith())
    quick = judge.judge(f"{tmp_path / 'models.py'}:Right", wanted, teacher).gate
    assert (quick.reason, quick.speed is not None and quick.speed.speedup > 2) == (None, True)
    assert quick.teacher_rows_per_s is not None
    slow = judge.judge(
        f"{tmp_path / 'models.py'}:Sleeps", wanted, TimedTeacher(f"{tmp_path / 'models.py'}:Right", ServedWith())
    )
    assert (slow.gate.reason, "of the teacher's speed; 1 is asked for" in slow.gate.detail) == ("slower", True)
    # A teacher that fails is not the student's fault, and costs the rest of the report nothing.
    broken = judge.judge(
        f"{tmp_path / 'models.py'}:Right", wanted, TimedTeacher(f"{tmp_path / 'models.py'}:Ends", ServedWith())
    )
    assert (broken.gate.reason, "Ends cannot be timed: its process ended" in broken.gate.detail) == ("not_timed", True)
    assert (broken.gate.speed, broken.answers is not None) == (None, True)
    # Without a teacher at hand it is timed by itself.
    alone = judge.judge(f"{tmp_path / 'models.py'}:Right", wanted, None).gate
    assert (alone.speed is not None, alone.teacher_rows_per_s) == (True, None)


def test_too_little_agreement_is_told_with_what_was_asked() -> None:
    target = numeric_subject(linear_answers(numbers(8))).target
    assert disagreement(target, 0.9, 0.9, 100) == ""
    assert disagreement(target, 0.85, 0.9, 100).startswith("same class in 85.00% of 100 rows")


def report(reason: str | None = None, shown: str = "a text") -> Report:
    """As a distillation leaves it."""
    epochs = [
        Epoch(number=n, loss=1 / n, held_out_loss=1.1 / n, agreement=1 - 0.5 / n, note="8 leaves") for n in (1, 2, 3)
    ]
    return Report(
        started_at="2026-01-01T00:00:00+00:00",
        seconds=12.0,
        name="net",
        teacher=TeacherReport(name="net", model="net.onnx", digest="d" * 64, output="y", form="logits"),
        transfer=TransferReport(
            source="rows.npz", sha256="a" * 64, rows=100, train=90, stop=5, test=5, test_source="", labelled=True,
            seed=0, asked=60, known=40,
        ),
        student=StudentReport(
            kind="tree", about="a tree", parameters=15, losses={"mse": 1.0}, temperature=2.0, best_epoch=2,
            stopped_early=True, epochs=epochs, train_s=1.0, model="model.onnx", files={"model.onnx": "b" * 64},
        ),
        quality=Quality(
            rows=5, agreement=0.8, agreement_low=0.4, constant=0.3, teacher_accuracy=1.0, student_accuracy=0.8,
            share_kept=0.8, teacher_calibration_error=0.01, student_calibration_error=0.02,
            classes=[ClassReport(name="ham", rows=5, teacher=1.0, student=0.8, drop=0.2)],
            disagreements=[Disagreement(row=3, shown=shown, gap=0.5, teacher=[0.9, 0.1], student=[0.4, 0.6])],
        ),
        gate=GateReport(min_agreement=0.9, min_speedup=1.0, batch_tolerance=1e-4, reason=reason, detail="why"),  # type: ignore[arg-type]
        machine=MachineReport(processor="p", isa=("x86_64",), cores=2, threads=1, versions={"numpy": "2"}),
    )  # fmt: skip


def test_the_page_has_curves_and_texts_that_do_no_harm() -> None:
    shown = page(report(shown="<script>alert(1)</script>"))
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    for told in ("Epoch 2 of 3 was kept; stopped early", "polyline", "ham", "+20.00", "share of the teacher", "0.0200"):
        assert told in shown, told
    refused = page(report("disagrees"))
    assert "<b>Not served</b>: disagrees: why" in refused


def test_curves_pass_over_what_is_no_number() -> None:
    assert "nan" not in lines([1, 2, 3], [Line("loss", [1.0, float("nan"), 0.5])], "loss", 1)
    assert lines([1], [Line("loss", [float("nan")])], "loss", 1) == ""
    assert "<svg" in lines([1], [Line("loss", [0.5])], "loss", 1)
    assert (spark([1.0, float("inf"), 2.0], 10), spark([], 10), spark([3.0, 3.0], 10)) == ("▁█", "", "▁▁")


def test_a_student_that_passed_is_placed_and_one_that_did_not_takes_it_away(tmp_path: Path) -> None:
    files, out = tmp_path / "files", tmp_path / "out"
    files.mkdir()
    (files / "model.onnx").write_bytes(b"x")
    output.check_target(out, "net")
    output.write(report(), out, files)
    assert (out / "net" / "1" / "model.onnx").read_bytes() == b"x"
    assert "threads = 1" in (out / "net" / "model.toml").read_text()
    found = msgspec.json.decode((out / "report.json").read_bytes(), type=Report)
    assert found == report()
    assert found.command == "distill"
    assert forms_of(str(out)) is None  # to `forebay tune` it is a repository like any other
    output.check_target(out, "net")
    output.write(report("disagrees"), out, files)
    assert sorted(entry.name for entry in out.iterdir()) == ["report.html", "report.json"]
    assert (out / "report.json").read_bytes() == encoded(report("disagrees"))


def test_what_an_interrupted_run_left_stands_in_nobodys_way(tmp_path: Path) -> None:
    """A run may end wherever it is: what it wrote by then is known as its own."""
    files, out = tmp_path / "files", tmp_path / "out"
    files.mkdir()
    (files / "model.onnx").write_bytes(b"x")
    (out / ".staged" / "1").mkdir(parents=True)
    (out / ".staged.report.json").write_bytes(b"{")
    output.check_target(out, "net")
    output.write(report(), out, files)
    assert sorted(entry.name for entry in out.iterdir()) == ["net", "report.html", "report.json"]
    (out / "net").rename(out / ".replaced")
    output.check_target(out, "net")
    output.write(report(), out, files)
    assert sorted(entry.name for entry in out.iterdir()) == ["net", "report.html", "report.json"]


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(SetupError, match="holds net, which is not of a distillation for net"):
        output.check_target(tmp_path, "net")
    (tmp_path / "report.json").write_text('{"format": 1}')
    with pytest.raises(SetupError, match=r"holds net, report\.json"):
        output.check_target(tmp_path, "net")
    (tmp_path / "report.json").write_bytes(encoded(report()))
    output.check_target(tmp_path, "net")
    with pytest.raises(SetupError, match="not of a distillation for other"):
        output.check_target(tmp_path, "other")
    with pytest.raises(SetupError, match="is a file"):
        output.check_target(tmp_path / "report.json", "net")
