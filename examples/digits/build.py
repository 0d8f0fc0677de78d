"""Train the network of `digits.py` on scikit-learn's digits, on the CPU, in less than half a minute.

    python examples/digits/build.py [FOLDER]

The 1,797 pictures are split in two halves by class and a fixed seed. One trains the network; the other, which training
never sees, becomes `samples.npz` (`x` FP32 [899, 1, 8, 8], `labels`). The weights go to `digits.safetensors`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.digits import digits, split
from examples.digits.split import Split, load_split

from forebay.core.tensors import Array

EPOCHS, BATCH, RATE = 20, 64, 4e-3
TURN, STRETCH, SHIFT = math.radians(10), 0.1, 0.25
"""Largest change of a training picture: an angle, a share of its size, and one pixel (of 8, from -1 to 1)."""


def train(halves: Split, epochs: int, tell: Callable[[int], None]) -> Any:
    """The trained network. `tell` is called with the number of epochs done. Seeded: the same on one machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of steps this short, two threads on busy cores make twenty times longer ones
    x, y = torch.from_numpy(halves.trained_x), torch.from_numpy(halves.trained_y)
    network = digits.Digits().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    steps = epochs * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(varied(x[batch])), y[batch]).backward()
            optimizer.step()
            schedule.step()
        tell(epoch + 1)
    return network.eval().to(memory_format=torch.contiguous_format)


def varied(x: Any) -> Any:
    """Each picture turned, stretched and shifted a little, by chance."""
    count = len(x)
    angle = (2 * torch.rand(count) - 1) * TURN
    scale = 1 + (2 * torch.rand(count) - 1) * STRETCH
    moves = torch.zeros(count, 2, 3)
    moves[:, 0, 0] = moves[:, 1, 1] = scale * angle.cos()
    moves[:, 0, 1], moves[:, 1, 0] = -scale * angle.sin(), scale * angle.sin()
    moves[:, :, 2] = (2 * torch.rand(count, 2) - 1) * SHIFT
    grid = torch.nn.functional.affine_grid(moves, x.shape, align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def accuracy(network: Any, x: Array, y: Array) -> float:
    """Share of pictures whose largest logit is that of their class."""
    with torch.inference_mode():
        return float((network(torch.from_numpy(x)).argmax(dim=1).numpy() == y).mean())


def build(folder: Path = digits.FOLDER, console: Console | None = None, epochs: int = EPOCHS) -> Path:
    """Write `digits.safetensors`, `samples.npz` and `build.json` to `folder`; return the samples' path.

    Does nothing when `build.json`, written last, tells that the files there come from this code and this torch.
    """
    console = console or Console()
    samples, note = folder / "samples.npz", folder / "build.json"
    code = b"".join(Path(file).read_bytes() for file in (__file__, digits.__file__, split.__file__))
    origin = {"code": hashlib.sha256(code).hexdigest(), "torch": torch.__version__, "epochs": epochs}
    if samples.exists() and note.exists() and json.loads(note.read_text()) == origin:
        console.print(f"The digits are up to date: {folder}")
        return samples
    folder.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    started, halves = time.monotonic(), load_split()
    with console.status("Training the network") as status:
        network = train(halves, epochs, lambda done: status.update(f"Training the network: {done} of {epochs} epochs"))
    save_file(network.state_dict(), folder / digits.WEIGHTS)
    np.savez(samples, allow_pickle=False, x=halves.held_x, labels=halves.held_y)
    note.write_text(json.dumps(origin))
    right = accuracy(network, halves.held_x, halves.held_y)
    console.print(
        f"Trained on {len(halves.trained_x)} pictures in {time.monotonic() - started:.0f} s; {right:.2%} right of the "
        f"{len(halves.held_x)} that training did not see: {folder}"
    )
    return samples


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Train the digits' network.")
    parser.add_argument("folder", nargs="?", type=Path, default=digits.FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
