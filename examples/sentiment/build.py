"""Train the classifier of `sentiment.py` on short messages that people rated, on the CPU, in less than a minute.

    python examples/minilm/build.py
    python examples/minilm/samples.py
    python examples/sentiment/build.py [FOLDER]

It learns from `training.csv` with MiniLM's tokenizer, and is judged by `sentiments.csv`, which shares no text with it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.sentiment import sentiment

DATA = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"
EPOCHS, BATCH, RATE, MAX_TOKENS = 4, 64, 2e-3, 64


def read_rows(file: Path, tokenizer: Tokenizer) -> tuple[Any, Any, Any]:
    """Token ids and mask, int64 [texts, tokens], and labels int64 [texts]. Raises `SystemExit` without the file."""
    if not file.is_file():
        raise SystemExit(f"{file} is not there; make it with: python examples/minilm/samples.py")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    encodings = tokenizer.encode_batch([row["text"] for row in rows])
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    return ids, mask, torch.tensor([int(row["label"]) for row in rows])


def open_tokenizer(data: Path) -> Tokenizer:
    """MiniLM's, which pads all texts to the longest. Raises `SystemExit` where it is missing."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    file = data / "tokenizer.json"
    if not file.is_file():
        raise SystemExit(f"{file} is not there; make it with: python examples/minilm/build.py")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def train(ids: Any, mask: Any, labels: Any, epochs: int = EPOCHS) -> Any:
    """The trained network. Seeded: the same on one machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in examples/digits/build.py
    network = sentiment.Sentiment().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(ids)).split(BATCH):
            longest = int(mask[batch].sum(dim=1).max())
            logits = network(ids[batch, :longest], mask[batch, :longest])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
    return network.eval()


def build(folder: Path = sentiment.FOLDER, data: Path = DATA, console: Console | None = None) -> Path:
    """Write `sentiment.safetensors` to `folder` and return its path."""
    console = console or Console()
    tokenizer = open_tokenizer(data)
    training, judging = (read_rows(data / name, tokenizer) for name in ("training.csv", "sentiments.csv"))
    started = time.monotonic()
    with console.status("Training the classifier"):
        network = train(*training)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / sentiment.WEIGHTS)
    ids, mask, labels = judging
    with torch.inference_mode():
        right = float((network(ids, mask).argmax(dim=1) == labels).float().mean())
    console.print(
        f"Trained on {len(training[0])} texts in {time.monotonic() - started:.0f} s; {right:.1%} right of the "
        f"{len(ids)} that training did not see: {folder}"
    )
    return folder / sentiment.WEIGHTS


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Train the sentiment classifier.")
    parser.add_argument("folder", nargs="?", type=Path, default=sentiment.FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
