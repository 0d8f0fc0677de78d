"""The digits' network and trees: their two halves, training, and what `forebay optimize` is handed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from examples.digits import split, trees
from rich.console import Console

from forebay.models.source import open_source
from forebay.optimize.samples import read_samples
from forebay.optimize.sources.torch_module import export_module
from forebay.runtimes.port import load_runtime

pytest.importorskip("torch", reason="torch comes with an extra")
from examples.digits import build as digits_build
from examples.digits import digits


def test_no_picture_is_in_both_halves_and_each_digit_is_as_frequent_in_both() -> None:
    halves = split.load_split()
    assert (halves.trained_x.shape, halves.held_x.shape) == ((898, 1, 8, 8), (899, 1, 8, 8))
    seen = {picture.tobytes() for picture in halves.trained_x}
    assert not any(picture.tobytes() in seen for picture in halves.held_x)
    counts = [np.bincount(labels, minlength=10) for labels in (halves.trained_y, halves.held_y)]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    assert split.FOLDER == digits.FOLDER


def test_the_network_learns_and_its_weights_and_samples_are_what_optimize_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, halves = Console(quiet=True), split.load_split()
    samples = digits_build.build(tmp_path, console, epochs=4)
    monkeypatch.setattr(digits, "FOLDER", tmp_path)
    source = tmp_path / "moved.py"
    source.write_text("from examples.digits.digits import factory\n")
    (tmp_path / "work").mkdir()
    original = export_module(source, "factory", "moved", tmp_path / "work")
    runtime = load_runtime(open_source(original.model), "cpu", 1)
    found = read_samples(samples, runtime.signature, None)
    assert len(found) == len(halves.held_x)
    x = np.stack([row["x"] for row in found.rows])
    (logits,) = runtime.run({"x": x}, len(x))
    right = float(np.mean(logits.argmax(axis=1) == halves.held_y))
    assert right > 0.8
    assert [str(label) for label in halves.held_y] == found.labels

    note = json.loads((tmp_path / "build.json").read_text())
    weights = (tmp_path / digits.WEIGHTS).stat().st_mtime_ns
    digits_build.build(tmp_path, console, epochs=4)
    assert (tmp_path / digits.WEIGHTS).stat().st_mtime_ns == weights, "what is up to date is trained again"
    (tmp_path / "build.json").write_text(json.dumps({**note, "code": "of another day"}))
    digits_build.build(tmp_path, console, epochs=1)
    assert (tmp_path / digits.WEIGHTS).stat().st_mtime_ns != weights


def test_a_network_that_was_not_trained_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python examples/digits/build\.py"):
        digits.factory()


def test_the_trees_are_right_about_pictures_that_they_have_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trees.build(tmp_path, rounds=20)
    assert "% right of the 899 pictures" in capsys.readouterr().out
    runtime = load_runtime(open_source(str(model)), "cpu", 1)
    samples = read_samples(tmp_path / "trees.npz", runtime.signature, None)
    x = np.stack([row["input"] for row in samples.rows])
    label, _ = runtime.run({"input": x}, len(x))
    assert np.mean(label == np.array(samples.labels, np.int64)) > 0.85
    parts = [read_samples(tmp_path / name, runtime.signature, None) for name in ("held.npz", "test.npz", "moved.npz")]
    assert [len(part) for part in parts] == [450, 449, 898 * trees.COPIES]
    assert parts[0].labels + parts[1].labels == samples.labels
    assert not parts[2].labels
