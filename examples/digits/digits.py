"""A small convolutional network on scikit-learn's handwritten digits, and the factory that `forebay optimize` calls.

python examples/digits/build.py
forebay optimize examples/digits/digits.py:factory --samples .forebay/models/digits/samples.npz --out faster
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "digits"
WEIGHTS = "digits.safetensors"


class Digits(torch.nn.Module):  # type: ignore[misc]
    """Pictures float32 [rows, 1, 8, 8], 0 to 1; to logits float32 [rows, 10].

    Two convolutions at each resolution, twice as many channels at half of it, as in VGG (arXiv 1409.1556), with batch
    normalisation: 330,000 weights, 6 million products a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            *_convolution(1, 64),
            *_convolution(64, 64),
            torch.nn.MaxPool2d(2),
            *_convolution(64, 128),
            *_convolution(128, 128),
            torch.nn.MaxPool2d(2),
        )
        self.classes = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(128 * 2 * 2, 128),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(128, 10),
        )

    def forward(self, x: Any) -> Any:
        """The logits."""
        return self.classes(self.features(x))


def _convolution(inputs: int, outputs: int) -> list[Any]:
    return [
        torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(outputs),
        torch.nn.ReLU(),
    ]


def load(folder: Path) -> Any:
    """The trained network. The weights are data: nothing in their file is run.

    Raises `FileNotFoundError` that tells how to make them.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; make it with: python examples/digits/build.py")
    module = Digits()
    module.load_state_dict(load_file(file))
    return module.eval()


def factory() -> tuple[Any, dict[str, Any]]:
    """The trained network, and two rows of its input."""
    return load(FOLDER), {"x": torch.zeros(2, 1, 8, 8)}
