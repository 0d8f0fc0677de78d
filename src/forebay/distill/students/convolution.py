"""A small convolutional network for rows that are pictures, [height, width] or [channels, height, width]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.distill.students.port import Module, Subject, described
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row

_CHANNELS = (16, 32)
_HIDDEN = 64
_MOST_CHANNELS = 4
"""A last axis of so few is taken for channels that come last."""
_LEAST_SIDE = 4
_MOST_CELLS = 8


def check_pictures(signature: Signature) -> None:
    """Raises `SetupError` where rows are no pictures of one size."""
    inputs = signature.inputs
    shape = inputs[0].row_shape
    fits = len(inputs) == 1 and len(shape) in (2, 3) and min(shape) > 0 and inputs[0].datatype != "BYTES"
    if not fits or min(_order(shape)[2:]) < _LEAST_SIDE:
        raise SetupError(
            f"--student cnn is for one input of pictures of one size, such as [1, 28, 28]; the teacher takes "
            f"{described(signature)}; use linear or tree, or file.py:factory"
        )


class Convolution:
    """See `Network`. Two convolutions, each followed by a maximum over 2 x 2, the mean over a grid of at most 8 x 8,
    and two linear layers.
    """

    def __init__(self, subject: Subject) -> None:
        inputs = subject.signature.inputs
        check_pictures(subject.signature)
        self._order, channels, height, width = _order(inputs[0].row_shape)
        self._shape = channels, height, width
        self._width, self._name = subject.target.width, inputs[0].name
        self.tensors: Sequence[TensorSpec] = inputs
        self.rate, self.batch, self.epochs = 4e-3, 64, 30
        self.about = f"convolutions of {_CHANNELS[0]} and {_CHANNELS[1]} channels, {_HIDDEN} hidden"

    def made(self, rows: Sequence[Row]) -> Module:
        """See `Network.made`. Values are brought to mean 0 and spread 1 by those of the transfer set."""
        values = np.stack([np.asarray(row[self._name], np.float32) for row in rows[:2000]])
        spread = float(values.std()) or 1.0
        return _module(self._name, self._order, self._shape, self._width, float(values.mean()), spread)

    def prepare(self, rows: Sequence[Row]) -> list[Row]:
        """See `Network.prepare`."""
        return list(rows)

    def write(self, folder: Path, graph: str) -> str:
        """See `Network.write`."""
        return graph


def _order(shape: tuple[int, ...]) -> tuple[str, int, int, int]:
    """Where the channels are, and channels, height and width."""
    if len(shape) == 2:
        return "none", 1, shape[0], shape[1]
    if shape[2] <= _MOST_CHANNELS < shape[0]:
        return "last", shape[2], shape[0], shape[1]
    return "first", shape[0], shape[1], shape[2]


def _module(name: str, order: str, shape: tuple[int, int, int], width: int, mean: float, spread: float) -> Module:
    import torch

    nn = torch.nn
    channels, height, wide = shape
    first, second = _CHANNELS
    # The grid divides what two halvings leave, so that every cell is a mean of as many values.
    grid = tuple(max(part for part in range(1, _MOST_CELLS + 1) if side // 4 % part == 0) for side in (height, wide))
    pool = (height // 4 // grid[0], wide // 4 // grid[1])

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                *(nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()),
                nn.MaxPool2d(2),
                *(nn.Conv2d(first, second, 3, padding=1, bias=False), nn.BatchNorm2d(second), nn.ReLU()),
                nn.MaxPool2d(2),
                nn.AvgPool2d(pool),
            )
            self.classes = nn.Sequential(
                nn.Flatten(), nn.Linear(second * grid[0] * grid[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, width)
            )

        def forward(self, **tensors: Any) -> Any:
            x = (tensors[name].float() - mean) / spread
            if order == "none":
                x = x.unsqueeze(1)
            elif order == "last":
                x = x.permute(0, 3, 1, 2)
            return self.classes(self.features(x))

    return Net()
