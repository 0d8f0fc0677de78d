"""`forebay cache calibrate` with a real embedder: a model whose vectors count letters."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from forebay.cache.semantic.calibrate import ScoredPair
from forebay.cli.calibrate import TextPair, distinct, read_pairs
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
    """Another answer: one of nearly the same letters, which the guard refuses, one that it does not."""
    if number % 2:
        return f"Open gate {number}", f"Open gate {number + 1}", "no"
    return f"gate w{number}", "the zoo", "No"


SAME = [("Open the gate", "Please open the gate!", "yes"), ("Mend a tyre", "Repair a tyre", "1")]


def test_threshold_file_and_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write(folder, [*SAME, *map(trap, range(80)), *SAME, *map(trap, range(9))])
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
    assert "11 of the rows repeat a pair, which counts once" in text


@pytest.mark.parametrize(
    ("option", "file", "said"), [("--plot", "c.docx", ".docx is not"), ("--out", "no/c", "folder")]
)
def test_files_that_cannot_be_written_are_told_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, file: str, said: str
) -> None:
    pairs = write(folder, SAME)
    assert calibrate(monkeypatch, pairs, "5%", "--embedder", "none.py:None", option, file) == 2
    assert f"{option} {file}: " in (told := " ".join(capsys.readouterr().err.split()))
    assert said in told


def test_a_pair_that_is_repeated_counts_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies: list[Row] = [("gate w1", "the zoo", "no"), ("the zoo", "Gate  w1", "no"), ("The zoo?", "gate w1", "no")]
    pairs = write(folder, [*SAME, *copies * 30])
    assert calibrate(monkeypatch, pairs, "5%", "--out", "c.json") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "at least 72 pairs with different answers, none of them a false hit; there are 1; 89 of the rows repeat" in told
    )
    assert not (folder / "c.json").exists()


def test_of_copies_the_one_counts_that_speaks_most_against_the_cache() -> None:
    texts = [("a", "b"), ("B", "a"), ("a", "b.")]
    scored = [(0.5, True), (0.99, False), (0.9, True)]
    for same, score in ((False, (0.9, True)), (True, (0.99, False))):
        pairs = [TextPair(*both, same) for both in texts]
        assert distinct(pairs, [ScoredPair(*one, same) for one in scored]) == [ScoredPair(*score, same)]


def test_labels_that_differ_by_capital_letters_only_may_both_be_right(folder: Path) -> None:
    rows: list[Row] = [("Who is in IT?", "Who is in it?", "no"), ("Who is in IT?", "who is in IT", "yes")]
    pairs = read_pairs(write(folder, rows))
    assert [(pair.same, pair.line) for pair in pairs] == [(False, 2), (True, 3)]


@pytest.mark.parametrize(("number", "shown"), [("0", "0"), ("float('nan')", "nan")])
def test_a_vector_without_direction_is_refused_and_its_text_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: str, shown: str
) -> None:
    text = LETTERS.read_text()
    spoilt = text.replace("        return np", f"        counts[-1] = [{number}] * 27\n        return np")
    assert spoilt != text
    (folder / "spoilt.py").write_text(spoilt)
    pairs = write(folder, [("Open the gate", "Mend a tyre", "yes")])
    assert calibrate(monkeypatch, pairs, "5%", "--embedder", "spoilt.py:Letters", "--out", "c.json") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"vectors that have no direction: 'Mend a tyre' has length {shown}" in told
    assert not (folder / "c.json").exists()


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
        (
            [*SAME, (" repair a  tyre", "Mend a tyre?", "no")],
            ("a", "b", "same"),
            "5%",
            "lines 3 and 4: the same pair, and same is yes in one and no in the other",
        ),
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
