"""Fit the head of `classifier.py`: a logistic regression on MiniLM's embeddings of 13,800 rated messages.

    python examples/minilm/build.py
    python examples/minilm/samples.py
    python examples/minilm/head.py [FOLDER]

It learns from `training.csv`, and is judged by `sentiments.csv`, which shares no text with it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.minilm.classifier import HEAD
from examples.minilm.minilm import FOLDER, MiniLM

from forebay.core.tensors import Array

BATCH = 32


def read(file: Path) -> tuple[list[bytes], Array]:
    """Texts and labels of a table. Raises `SystemExit` where it is missing."""
    if not file.is_file():
        raise SystemExit(f"{file} is not there; make it with: python examples/minilm/samples.py")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row["text"].encode() for row in rows], np.array([int(row["label"]) for row in rows])


def embed(model: MiniLM, texts: list[bytes]) -> Array:
    """One embedding a text; those of like length together, so that few tokens are padding."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = np.zeros((len(texts), 384), np.float32)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        found[places] = model.predict(np.array([[texts[place]] for place in places], dtype=object))
    return found


def build(
    folder: Path = FOLDER, console: Console | None = None, minilm: Path | None = None, judge: str = "sentiments.csv"
) -> Path:
    """Write `head.npz` to `folder` and return its path. `minilm`: where MiniLM is, if elsewhere. `judge`: the table
    that it is judged by.
    """
    console = console or Console()
    started = time.monotonic()
    model = MiniLM()
    model.folder = minilm or folder
    model.load("cpu")
    texts, labels = read(folder / "training.csv")
    held, truth = read(folder / judge)
    with console.status(f"Embedding {len(texts) + len(held):,} texts"):
        x, y = embed(model, texts), embed(model, held)
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(x, labels)
    # Of two classes scikit-learn keeps the difference of their logits.
    weights = np.concatenate([np.zeros_like(fitted.coef_), fitted.coef_]).T.astype(np.float32)
    bias = np.append(0.0, fitted.intercept_).astype(np.float32)
    file = folder / HEAD
    np.savez(file, allow_pickle=False, weights=weights, bias=bias)
    right = float(np.mean((y @ weights + bias).argmax(axis=1) == truth))
    console.print(
        f"Fitted on {len(texts):,} texts in {time.monotonic() - started:.0f} s; {right:.1%} right of the {len(held):,} "
        f"that it has not seen: {file}"
    )
    return file


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Fit the head of MiniLM's classifier.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
