"""XGBoost on the same halves of scikit-learn's digits: 100 rounds for each of ten classes, 1,000 trees.

    python examples/digits/trees.py [FOLDER]

Writes `trees.ubj` and, of the half that training never sees, `trees.npz` (`input` FP32 [899, 64], `labels`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.digits.split import FOLDER, load_split

ROUNDS = 100


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
    np.savez(folder / "trees.npz", allow_pickle=False, input=held, labels=split.held_y)
    print(f"{right:.2%} right of the {len(held)} pictures that training did not see: {model}")
    return model


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Train trees on the digits.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
