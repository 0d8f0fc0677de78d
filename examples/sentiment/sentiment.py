"""A text classifier of one's own in torch, with rows of any length, and the factory that `forebay optimize` calls.

python examples/sentiment/build.py
forebay optimize examples/sentiment/sentiment.py:factory --samples .forebay/models/minilm/sentiments.csv \
    --tokenizer .forebay/models/minilm/tokenizer.json --out faster
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "sentiment"
WEIGHTS = "sentiment.safetensors"
WORDS, WIDTH = 30_522, 128
"""Entries of MiniLM's tokenizer, and numbers a word."""


class Sentiment(torch.nn.Module):  # type: ignore[misc]
    """Words to vectors, two convolutions along the text, their mean, two logits: negative, positive.

    `input_ids` and `attention_mask` are INT64 [rows, length]. What is masked is set to zero before each convolution, so
    that a row is answered the same however far its batch pads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.first = torch.nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.second = torch.nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.classes = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(WIDTH, 2))

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """The logits."""
        mask = attention_mask.unsqueeze(1).to(torch.float32)
        x = self.words(input_ids).transpose(1, 2) * mask
        x = torch.relu(self.first(x)) * mask
        x = torch.relu(self.second(x)) * mask
        return self.classes(x.sum(dim=2) / mask.sum(dim=2))


def factory() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The trained network, two rows of its inputs, and the axis besides the first that varies.

    Raises `FileNotFoundError` that tells how to make the weights.
    """
    file = FOLDER / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; make it with: python examples/sentiment/build.py")
    module = Sentiment()
    module.load_state_dict(load_file(file))
    row = torch.ones(2, 16, dtype=torch.int64)
    inputs = {"input_ids": row, "attention_mask": row}
    return module.eval(), inputs, {name: {1: "length"} for name in inputs}
