"""`forebay cache calibrate` with a real embedder: a model whose vectors count letters."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from forebay.cli.main import main

LETTERS = Path(__file__).resolve().parents[2] / "models" / "letters.py"
Row = tuple[str, str, str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, rows: Sequence[Row], head: Row = ("a", "b", "same")) -> Path:
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def calibrate(monkeypatch: pytest.MonkeyPatch, pairs: Path, budget: str, *words: str) -> int:
    command = ["forebay", "cache", "calibrate", "--pairs", str(pairs), "--budget", budget]
    monkeypatch.setattr("sys.argv", [*command, "--embedder", f"{LETTERS}:Letters", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def trap(number: int) -> Row:
    """Nearly the same letters, and another answer: one the guard refuses, one it does not."""
    return ("Open gate four", "Open gate five", "no") if number % 2 else (f"gate w{number}", "the zoo", "No")


SAME = [("Open the gate", "Please open the gate!", "yes"), ("Mend a tyre", "Repair a tyre", "1")]


def test_threshold_file_and_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write(folder, [*SAME, *map(trap, range(80))])
    assert calibrate(monkeypatch, pairs, "5%", "--out", "c.json", "--plot", "c.png", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "c.json").read_text())
    assert (told["different_pairs"], told["same_pairs"], told["true_hits"], told["false_hits"]) == (80, 2, 2, 0)
    assert (told["budget"], len(told["embedder"])) == (0.05, 64)
    assert 0.5 < told["threshold"] < 1.0
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG")
    assert calibrate(monkeypatch, pairs, "0.05") == 0
    text = capsys.readouterr().out
    assert f"threshold       {told['threshold']:.4f} (cosine)" in text
    assert "false hits      0 of 80 pairs with different answers (0.0%); at most 4.5% with 95 % confidence" in text


def test_too_few_pairs_are_refused_and_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write(folder, [*SAME, *map(trap, range(20))])
    assert calibrate(monkeypatch, pairs, "1%", "--out", "c.json") == 2
    assert "needs at least 368 pairs with different answers" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "c.json").exists()


@pytest.mark.parametrize(
    ("rows", "head", "budget", "words"),
    [
        (SAME, ("a", "b", "same"), "0", "--budget 0: write a share between 0 and 1"),
        (SAME, ("a", "b", "same"), "150%", "--budget 150%: write a share"),
        (SAME, ("a", "b", "same"), "few", "--budget few: write a share"),
        (SAME, ("a", "c", "label"), "5%", "must name the columns a, b, same; ['b', 'same'] missing"),
        ([("x", "y", "perhaps")], ("a", "b", "same"), "5%", "line 2: same must be yes or no, not 'perhaps'"),
        ([*SAME, ("x", "", "no")], ("a", "b", "same"), "5%", "line 4: a and b must be texts"),
        ([], ("a", "b", "same"), "5%", "has no pairs"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: Sequence[Row],
    head: Row,
    budget: str,
    words: str,
) -> None:
    assert calibrate(monkeypatch, write(folder, rows, head), budget) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_model_that_is_no_embedder_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write(folder, SAME)
    plain = LETTERS.with_name("plain.py")
    assert calibrate(monkeypatch, pairs, "5%", "--embedder", f"{plain}:Texts") == 2
    assert "texts is no embedder: it must take one BYTES input" in " ".join(capsys.readouterr().err.split())
