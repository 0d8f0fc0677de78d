"""XGBoost on the same halves of scikit-learn's digits: 100 rounds for each of ten classes, 1,000 trees.

    python examples/digits/trees.py [FOLDER]

Writes `trees.ubj` and, of the half that training never sees, `trees.npz` (`input` FP32 [899, 64], `labels`). For
`forebay distill` (docs/distill-digits.md) these are parted once more, `held.npz` and `test.npz`, and `moved.npz` has 20
pictures without a label for each that was trained with: it, moved by up to one pixel, with noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.digits.split import FOLDER, load_split

from forebay.core.tensors import Array

ROUNDS = 100
HELD = 450
"""Of the half, to find by how sure a student must be; the rest judges."""
COPIES, NOISE = 20, 0.05


def build(folder: Path = FOLDER, rounds: int = ROUNDS) -> Path:
    """Train, write both files to `folder`, return the model's path."""
    import xgboost

    split = load_split()
    parameters = {"objective": "multi:softprob", "num_class": 10, "max_depth": 4, "eta": 0.2, "seed": 0}
    booster = xgboost.train(parameters, xgboost.DMatrix(split.trained_x.reshape(-1, 64), split.trained_y), rounds)
    held = split.held_x.reshape(-1, 64)
    right = float(np.mean(booster.inplace_predict(held).argmax(axis=1) == split.held_y))
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "trees.ubj"
    booster.save_model(model)
    for name, part in (("trees", slice(None)), ("held", slice(HELD)), ("test", slice(HELD, None))):
        np.savez(folder / f"{name}.npz", allow_pickle=False, input=held[part], labels=split.held_y[part])
    np.savez(folder / "moved.npz", allow_pickle=False, input=moved(split.trained_x[:, 0]).reshape(-1, 64))
    print(f"{right:.2%} right of the {len(held)} pictures that training did not see: {model}")
    return model


def moved(pictures: Array) -> Array:
    """`COPIES` of each, float32 [n, 8, 8]. Seeded."""
    chance = np.random.default_rng(0)
    wide = np.pad(np.repeat(pictures, COPIES, axis=0), ((0, 0), (1, 1), (1, 1)))
    places = chance.integers(0, 3, (len(wide), 2))
    found = np.stack([one[y : y + 8, x : x + 8] for one, (y, x) in zip(wide, places, strict=True)])
    return np.clip(found + chance.normal(0, NOISE, found.shape), 0, 1).astype(np.float32)


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Train trees on the digits.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
