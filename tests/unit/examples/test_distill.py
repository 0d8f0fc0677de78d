"""The one command of the how-tos of `forebay distill`: it runs what a page shows, and measures what that serves."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from examples import distill
from tests.unit.optimize.pages import ROOT, commands
from typer.testing import CliRunner

from forebay.cascade.policy import read_calibration
from forebay.cli.main import app

LARGE, SMALL = (f"{ROOT / 'tests' / 'models' / 'cascaded.py'}:{name}" for name in ("Large", "Small"))


@pytest.mark.parametrize("name", distill.NAMES)
def test_a_page_tells_what_is_run_and_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = distill.commands(ROOT / "docs" / f"distill-{name}.md")
    assert lines == [shlex.split(line) for line in commands(f"distill-{name}")]
    served = distill.served_by(lines)
    (cascade,) = [line for line in lines if line[:2] == ["forebay", "cascade"]]
    assert cascade[2:4] == served.models
    assert str(served.cascade) == cascade[cascade.index("--out") + 1]
    assert str(served.test) not in cascade
    ran: list[list[str]] = []

    class Ended:
        returncode = 0

    def run(words: list[str], **_: object) -> Ended:
        ran.append(words[1:])
        return Ended()

    monkeypatch.setattr("subprocess.run", run)
    distill.follow(lines)
    assert ran == [line[1:] for line in lines if line[0] == "python" or line[1] in ("distill", "cascade")]
    Ended.returncode = 2
    with pytest.raises(SystemExit) as ended:
        distill.follow(lines)
    assert ended.value.code == 2


def test_teacher_student_and_cascade_are_asked_and_the_table_tells(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held, test = rng.normal(0, [2, 0.5], (2, 400, 2)).astype(np.float32)
    labels = (test.sum(axis=1) > 0).astype(np.int64)
    np.savez(tmp_path / "held.npz", allow_pickle=False, x=held)
    np.savez(tmp_path / "test.npz", allow_pickle=False, x=test, labels=labels)
    out = tmp_path / "cascade.json"
    words = ("cascade", LARGE, SMALL, "--samples", str(tmp_path / "held.npz"), "--agreement", "95%", "--out", str(out))
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    served = distill.Served([LARGE, SMALL], "large", out, tmp_path / "test.npz")
    calibration = read_calibration(out)
    rows, read = distill.read_test(served.test)
    found = distill.measure(served, calibration, rows, 0.0)
    teacher, student, cascade = (float(np.mean(one.argmax(axis=1) == labels)) for one in found.answers)
    assert (teacher, student < 0.95, cascade > student) == (1.0, True, True)
    assert 0.0 < found.by_student < 1.0
    assert [len(rates) for rates in found.rates] == [distill.ROUNDS] * 3
    lines = list(distill.table(found, read, calibration))
    assert lines[2].startswith("| teacher | 100.0 % | 100.0 % | 100.0 % | ")
    assert lines[2].endswith(" | 1.0x |")
    assert lines[3].startswith(f"| student | {student:.1%}".replace("%", " %"))
    assert lines[4].startswith("| cascade at 0.95 | ")
    assert lines[6].startswith("400 rows that none has learned from.")
