"""`forebay distill`: what it shows while it works, and words that are refused before a teacher is opened."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.unit.distill.lessons import FakeTeacher, Heard, numbers, texts
from typer.testing import CliRunner

from forebay.cli.distill import _print
from forebay.cli.distill_progress import DistillProgress
from forebay.cli.distill_teacher import EngineTeacher
from forebay.cli.main import app
from forebay.core.errors import AdmissionError, SetupError
from forebay.core.settings_sources import load_settings
from forebay.core.tensors import Array, bytes_array
from forebay.distill.judge import Asked
from forebay.distill.kept import KeptAnswers
from forebay.distill.report import Epoch
from forebay.distill.run import Lesson, Order, check_order, distill
from forebay.distill.students.port import Plan
from forebay.distill.target import Wanted
from forebay.distill.transfer import Transfer
from forebay.embedding.engine import open_alone
from forebay.models.signature import Signature, TensorSpec
from forebay.tune.subject import source_of


def epoch(number: int, agreement: float) -> Epoch:
    return Epoch(number=number, loss=1 / number, held_out_loss=2 / number, agreement=agreement, seconds=0.5, note="")


def test_a_terminal_shows_rows_a_second_and_the_curves() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with DistillProgress(console) as progress:
        progress.says("asking sent about 2,000 rows")
        progress.asking(500, 2000, 250.0)
        progress.refresh()
        progress.says("training static-embedding on 1,800 rows")
        for number, agreement in enumerate((0.5, 0.75, 1.0, 0.875), 1):
            progress.epoch(epoch(number, agreement))
        progress.refresh()
    shown = screen.getvalue()
    for told in (
        "500 of 2,000 rows, 250 rows/s, 6 s left",
        "▁▅█▇",
        "87.50%, best 100.00%",
        "epoch 3: loss 0.3333, held out 0.6667, agreement 100.00%",
    ):
        assert told in shown, told


def test_without_a_terminal_every_epoch_is_a_line() -> None:
    screen = io.StringIO()
    with DistillProgress(Console(file=screen, width=160)) as progress:
        progress.says("asking sent about 2,000 rows")
        progress.asking(0, 2000, 0.0)
        progress.asking(2000, 2000, 250.0)
        progress.epoch(epoch(1, 0.5))
    assert screen.getvalue().splitlines() == [
        "asking sent about 2,000 rows",
        "2,000 of 2,000 rows asked, 250 rows/s",
        "epoch 1: loss 1.0000, held out 2.0000, agreement 50.00%, 0.5 s",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name the TEACHER, as for forebay serve, or a file of its answers: --teacher-outputs FILE"),
        (("t.onnx",), "there are no rows to learn from; write --samples FILE or --from-log NAME"),
        (("t.onnx", "--samples", "x.npz", "--from-log", "t"), "both --samples and --from-log are given"),
        (("t.onnx", "--samples", "none.npz"), "--samples none.npz: there is no such file"),
        (
            ("--teacher-outputs", "x.npz", "--samples", "x.npz"),
            "holds the rows and their answers; leave --samples away",
        ),
        (("t.onnx", "--samples", "x.npz", "--tenant", "a"), "--tenant a goes with --from-log NAME"),
        (("t.onnx", "--samples", "x.npz", "--student", "oak"), "--student oak: there is no such student"),
        (("t.onnx", "--samples", "x.npz", "--loss", "hinge=1"), "--loss hinge=1: there is no loss 'hinge'"),
        (("t.onnx", "--samples", "x.npz", "--temperature", "0"), "--temperature 0: must be a number above 0"),
        (("t.onnx", "--samples", "x.npz", "--held-out", "1"), "--held-out 1: write a share between 0 and 1"),
        (("t.onnx", "--samples", "x.npz", "--epochs", "0"), "--epochs 0: must be 1 or more"),
        (("t.onnx", "--samples", "x.npz", "--min-agreement", "90"), "--min-agreement 90: write a share"),
        (("t.onnx", "--samples", "x.npz", "--classes", "a,a"), "--classes a,a: write two names or more, each once"),
        (("t.onnx", "--samples", "x.npz", "--name", "a b"), "--name a b: it may have letters"),
        (("t.onnx", "--samples", "x.npz", "--student", "linear"), "there is no file 't.onnx'"),
        (
            ("t.onnx", "--samples", "x.npz", "--student", "tree", "--vectors", "."),
            "--vectors . goes with --student static-embedding or text-cnn, not with tree; leave it away",
        ),
        (("t.onnx", "--samples", "x.npz", "--vectors", "none"), "--vectors none: there is no such folder"),
        (("t.onnx", "--samples", "x.npz", "--vectors", "."), ". has no model.safetensors"),
    ],
)
def test_a_bad_word_is_one_line_with_its_mend(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.npz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("forebay.cli.distill.give_way", lambda: None)  # the tests' own process stays what it is
    ended = CliRunner().invoke(app, ["distill", *words])
    assert isinstance(ended.exception, SetupError), ended.output
    assert told in ended.exception.message


TEACHERS = Path(__file__).resolve().parents[2] / "models" / "teachers.py"


def teacher(folder: Path, config: Path | None = None, **more: Any) -> EngineTeacher:
    loaded = load_settings(config_file=config, environ={}, flags={"data_dir": str(folder)}, sets=())
    return EngineTeacher(source_of(f"{TEACHERS}:Keyword", None), loaded, config, {}, **more)


def test_a_teacher_says_what_it_says_itself_whatever_its_server_is_set_to(tmp_path: Path) -> None:
    """A store that is not there, files of cascade and variants that are none: they are for those who serve."""
    config = tmp_path / "forebay.toml"
    config.write_text(
        '[jobs]\nstore = "redis://127.0.0.1:1"\n[models.keyword]\ncache = "exact"\ncascade = "none.json"\n'
        "[models.keyword_of_another]\nthreads = 1\n"
    )
    heard: list[tuple[int, object]] = []
    with teacher(tmp_path, config) as found:
        found.ask(texts(["good"]), lambda place, said: heard.append((place, said)))
        assert found._engine is not None
        assert found._engine._site.jobs is None
    ((place, said),) = heard
    assert (place, isinstance(said, dict)) == (0, True)


def test_a_teacher_that_is_gone_for_good_ends_it(tmp_path: Path) -> None:
    class Gone:
        async def infer(self, inputs: object, timeout_s: float) -> None:
            raise AdmissionError("its processes ended 5 times", code="model_not_ready")

    one = teacher(tmp_path, gone_s=0.2)
    one._engine = Gone()  # type: ignore[assignment]
    with pytest.raises(SetupError, match="the teacher keyword does not answer any more: its processes ended") as told:
        asyncio.run(one._one(texts(["good"])[0]))
    assert told.value.code == "model_load_error"


def test_the_words_that_a_teacher_answers_are_kept_as_they_came(tmp_path: Path) -> None:
    class Says:
        async def infer(self, inputs: object, timeout_s: float) -> dict[str, Array]:
            return {"label": bytes_array([b"good"], (1,)), "score": np.array([0.5], np.float32)}

    one = teacher(tmp_path)
    one._engine = Says()  # type: ignore[assignment]
    said = asyncio.run(one._one(texts(["good"])[0]))
    assert not isinstance(said, str)
    writing = KeptAnswers(tmp_path, "keyword", "d" * 64)
    writing.add(b"k" * 16, said)
    writing.close()
    (kept,) = KeptAnswers(tmp_path, "keyword", "d" * 64).load().values()
    assert {name: (value.shape, value.tolist()) for name, value in kept.items()} == {
        "label": ((), b"good"),
        "score": ((), 0.5),
    }


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"kind": "linear"}, "--student linear is for rows of so many numbers"),
        ({"kind": "tree"}, "--student tree is for rows of so many numbers"),
        ({"kind": "cnn"}, "--student cnn is for one input of pictures of one size"),
        ({"kind": "every-nth-layer"}, "--student every-nth-layer is cut out of its teacher"),
        ({"kind": "mine.py:make"}, "--student mine.py:make: torch has no texts"),
        ({"kind": "static-embedding", "wanted": Wanted("z")}, "--output z: the teacher has no such output; it has y"),
        ({"kind": "static-embedding", "wanted": Wanted(classes=("a", "b", "c"))}, "--classes names 3, and 'y' has 2"),
        ({"kind": "static-embedding", "plan": Plan(losses={"labels": 1.0})}, "--loss labels needs labels"),
        ({"kind": "text-cnn", "plan": Plan(vectors=Path("v"))}, "--vectors v: .* there is none in that folder"),
    ],
)
def test_what_the_rows_cannot_give_is_told_before_the_teacher_is_asked(
    tmp_path: Path, order: dict[str, Any], said: str
) -> None:
    signature = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("y", "FP32", (2,)),))
    lesson = Lesson("m", signature, "d", Transfer("texts.txt", "", texts(["a", "b"])))
    with pytest.raises(SetupError, match=said):
        check_order(Order(out=tmp_path / "out", **order), lesson)


def numeric_lesson(teacher: FakeTeacher, rows: int = 40) -> Lesson:
    return Lesson("student", FakeTeacher.signature, "d", Transfer("rows.npz", "", numbers(rows)), teacher=teacher)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"kind": "static-embedding"}, "--student static-embedding is for texts"),
        ({"kind": "cnn"}, "--student cnn is for one input of pictures"),
        ({"kind": "linear", "wanted": Wanted("q")}, "--output q: the teacher has no such output"),
        ({"kind": "linear", "wanted": Wanted(classes=("a", "b", "c"))}, "--classes names 3"),
    ],
)
def test_the_teacher_is_not_asked_for_what_cannot_be(tmp_path: Path, order: dict[str, Any], said: str) -> None:
    teacher = FakeTeacher()
    with pytest.raises(SetupError, match=said):
        distill(Order(out=tmp_path / "out", **order), numeric_lesson(teacher), Heard())
    assert teacher.asked == []


def test_it_is_the_teacher_that_is_asked_whatever_the_student_is_called(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        distill(Order("linear", tmp_path / "out"), numeric_lesson(FakeTeacher(fails_after=3)), heard)
    assert heard.said == ["asking fake about 40 rows"]


def test_a_student_that_too_few_rows_have_judged_is_told_to_be_in_doubt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "30 rows cannot tell that it agrees in 90.00%"
    out = tmp_path / "out"
    report = distill(Order("linear", out, gate=Asked(rounds=0)), numeric_lesson(FakeTeacher(), 80), Heard())
    assert (report.quality.rows, report.quality.agreement, report.gate.reason) == (30, 1.0, None)
    assert report.gate.doubt.startswith(told)
    assert f"In doubt</b>: {told}" in (out / "report.html").read_text()
    _print(Console(), report, out)
    assert f"in doubt: {told}" in capsys.readouterr().out
    sure = Order("linear", out, gate=Asked(rounds=0, min_agreement=0.8))
    assert distill(sure, numeric_lesson(FakeTeacher(), 80), Heard()).gate.doubt == ""


def test_few_rows_are_no_judges_wherever_they_come_from(tmp_path: Path) -> None:
    order = Order("linear", tmp_path / "out", gate=Asked(rounds=0))
    with pytest.raises(SetupError, match=r"rows.npz holds 40 rows.*give at least 80"):
        distill(order, numeric_lesson(FakeTeacher()), Heard())
    test = Transfer("test.npz", "", numbers(29, seed=1))
    with pytest.raises(SetupError, match=r"--test test.npz holds 29 rows.*give at least 30"):
        distill(order, replace(numeric_lesson(FakeTeacher()), test=test), Heard())


def test_models_are_measured_as_they_would_be_served_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `forebay.toml` of the folder and the environment say of a model counts; models that are elsewhere may stand
    there, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forebay.toml").write_text("[models.keyword]\nmax_batch_rows = 3\n[models.other]\nthreads = 1\n")

    async def said() -> tuple[int, int]:
        async with open_alone(f"{TEACHERS}:Keyword", environ={"FOREBAY_MODELS__KEYWORD__INSTANCES": "2"}) as engine:
            found = engine._site.inference.find("keyword", None).engine
            return found.max_batch_rows, found.instances

    assert asyncio.run(said()) == (3, 2)
