"""The head on MiniLM learns from rated texts, and answers shares of one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from examples.minilm import head
from examples.minilm.classifier import Classifier
from rich.console import Console
from tests.unit.examples.conftest import column

GOOD = ("I love this", "what a wonderful day", "the food was great", "best concert ever", "thank you so much")
BAD = ("I hate this", "what an awful day", "the food was terrible", "worst concert ever", "this made me so angry")


def write(file: Path) -> None:
    rows = [f"{text},{label}" for label, texts in ((1, GOOD), (0, BAD)) for text in texts]
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


def test_the_head_tells_good_from_bad(minilm_folder: Path, tmp_path: Path) -> None:
    for file in minilm_folder.iterdir():  # which others use too
        (tmp_path / file.name).symlink_to(file)
    for name in ("training.csv", "sentiments.csv"):
        write(tmp_path / name)
    screen = io.StringIO()
    assert head.build(tmp_path, Console(file=screen, width=200)) == tmp_path / "head.npz"
    assert "100.0% right of the 10" in screen.getvalue()
    model = Classifier()
    model.folder = tmp_path
    model.load("cpu")
    found = model.predict(column([b"a lovely film, I liked it", b"a dreadful film, I was bored", b""]))
    assert found.dtype == np.float32
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert found[:2].argmax(axis=1).tolist() == [1, 0]


def test_what_is_missing_is_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"python examples/minilm/samples\.py"):
        head.read(tmp_path / "training.csv")
