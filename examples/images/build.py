"""Write `images.onnx`: a picture of 150 KB in, 10 numbers out, and little arithmetic, so that the server's cost shows.

    python examples/images/build.py [FOLDER]

Input `x` UINT8 [N, 224, 224, 3]; one 16x16 convolution of stride 16 to 8 channels, mean over the picture, a dense layer
to `logits` FP32 [N, 10]. The weights are random but the same on every machine: this model is for measuring.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forebay.core.tensors import Array

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "images"
SIDE, PATCH, CHANNELS, CLASSES = 224, 16, 8, 10


def weights() -> dict[str, Array]:
    """Convolution [8, 3, 16, 16] and dense layer [8, 10], for pixels scaled to 0..1."""
    random = np.random.default_rng(0)
    return {
        "kernel": random.normal(0, 0.05, (CHANNELS, 3, PATCH, PATCH)).astype(np.float32),
        "kernel_bias": random.normal(0, 0.05, CHANNELS).astype(np.float32),
        "dense": random.normal(0, 0.3, (CHANNELS, CLASSES)).astype(np.float32),
        "dense_bias": np.zeros(CLASSES, dtype=np.float32),
    }


def build_graph() -> onnx.ModelProto:
    """The model as ONNX, checked. The scale 1/255 is folded into the kernel; pixels are moved while still one byte."""
    values = weights()
    values["kernel"] = values["kernel"] / np.float32(255)
    nodes = [
        helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(
            "Conv", ["pixels", "kernel", "kernel_bias"], ["patches"], kernel_shape=[PATCH] * 2, strides=[PATCH] * 2
        ),
        helper.make_node("GlobalAveragePool", ["patches"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "dense_bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "images",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="forebay-examples")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def build(folder: Path = DEFAULT_FOLDER) -> Path:
    """Write `images.onnx` to `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "images.onnx"
    onnx.save(build_graph(), target)
    return target


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Write images.onnx.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    print(f"Built {build(parser.parse_args().folder)}")


if __name__ == "__main__":
    main()
