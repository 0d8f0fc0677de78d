"""Write `mlp.onnx` and the same weights as `mlp.npz`: 16 numbers in, the shares of 3 classes out.

    python examples/mlp/build.py [FOLDER]

Input `x` FP32 [N, 16], output `y` FP32 [N, 3] (softmax). The network is trained here, in a second, with numpy: it tells
which third of a 16-sample period a noisy sine wave begins in. `wave_rows` makes such rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forebay.core.tensors import Array

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "mlp"
INPUTS, HIDDEN, CLASSES = 16, 32, 3
NAMES = ("w1", "b1", "w2", "b2")


def wave_rows(rows: int, seed: int) -> tuple[Array, Array]:
    """Noisy sine waves, float32 [rows, 16], and the third of the period they begin in, int64 [rows]."""
    random = np.random.default_rng(seed)
    start = random.random(rows)
    phase = 2 * np.pi * (start[:, None] + np.arange(INPUTS) / INPUTS)
    waves = np.sin(phase) + random.normal(0, 0.3, phase.shape)
    return waves.astype(np.float32), (start * CLASSES).astype(np.int64)


def forward(weights: list[Array], x: Array) -> tuple[Array, Array]:
    """Hidden values [rows, 32] and class shares [rows, 3]."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(x @ w1 + b1, 0)
    scores = hidden @ w2 + b2
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, shares / shares.sum(axis=1, keepdims=True)


def train(steps: int = 400, rate: float = 0.5) -> list[Array]:
    """Gradient descent on 500 waves; the same weights on every machine up to rounding."""
    random = np.random.default_rng(0)
    x, target = wave_rows(500, seed=1)
    wanted = np.eye(CLASSES, dtype=np.float32)[target]
    weights: list[Array] = [
        random.normal(0, 0.3, (INPUTS, HIDDEN)),
        np.zeros(HIDDEN),
        random.normal(0, 0.3, (HIDDEN, CLASSES)),
        np.zeros(CLASSES),
    ]
    for _ in range(steps):
        hidden, shares = forward(weights, x)
        score_slope = (shares - wanted) / len(x)
        hidden_slope = (score_slope @ weights[2].T) * (hidden > 0)
        slopes = [x.T @ hidden_slope, hidden_slope.sum(0), hidden.T @ score_slope, score_slope.sum(0)]
        weights = [weight - rate * slope for weight, slope in zip(weights, slopes, strict=True)]
    return [weight.astype(np.float32) for weight in weights]


def build_graph(weights: list[Array]) -> onnx.ModelProto:
    """The network as ONNX, checked."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["scores_1"]),
        helper.make_node("Relu", ["scores_1"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["scores_2"]),
        helper.make_node("Softmax", ["scores_2"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, NAMES, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="forebay-examples")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def build(folder: Path = DEFAULT_FOLDER) -> Path:
    """Train, write `mlp.onnx` and `mlp.npz` to `folder`, return the ONNX file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = train()
    w1, b1, w2, b2 = weights
    np.savez(folder / "mlp.npz", w1=w1, b1=b1, w2=w2, b2=b2)
    target = folder / "mlp.onnx"
    onnx.save(build_graph(weights), target)
    return target


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Train and write mlp.onnx.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    print(f"Built {build(parser.parse_args().folder)}")


if __name__ == "__main__":
    main()
