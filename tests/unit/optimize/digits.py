"""Small real models on scikit-learn's digits as ONNX, and samples of them. Weights are trained; nothing is random."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from forebay.core.tensors import Array

SEEN = 1200
"""Pictures that models are trained on; samples are taken from the rest."""


@cache
def digits() -> tuple[Array, Array]:
    """Pictures float32 [n, 64] in 0 to 1, and their numbers."""
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


@cache
def mlp_weights() -> tuple[list[Array], list[Array]]:
    x, y = digits()
    fitted = MLPClassifier((128,), max_iter=60, tol=1e-2, n_iter_no_change=60, random_state=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 rounds are enough here
        fitted.fit(x[:SEEN], y[:SEEN])
    return [w.astype(np.float32) for w in fitted.coefs_], [b.astype(np.float32) for b in fitted.intercepts_]


def model_of(
    nodes: list[Any], constants: dict[str, Array], inputs: dict[str, list[Any]], outputs: dict[str, Any]
) -> Any:
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def mlp() -> Any:
    """`x` [N, 64] to `logits` [N, 10] by two MatMuls."""
    (first, second), (b1, b2) = mlp_weights()
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"], name="first"),
        helper.make_node("Add", ["h1", "b1"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("MatMul", ["h3", "w2"], ["h4"], name="second"),
        helper.make_node("Add", ["h4", "b2"], ["logits"]),
    ]
    return model_of(nodes, {"w1": first, "b1": b1, "w2": second, "b2": b2}, {"x": ["N", 64]}, {"logits": ["N", 10]})


def linear(first: int, last: int, output: str) -> Any:
    """`x` [N, 64] to `logits` [N, 10], `probabilities` or `label` [N]: a linear classifier, trained on a part of the
    pictures only.
    """
    x, y = digits()
    fitted = LogisticRegression(max_iter=400).fit(x[first:last], y[first:last])
    constants = {"w": fitted.coef_.T.astype(np.float32), "b": fitted.intercept_.astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["scores"], name="linear")]
    kinds: dict[str, tuple[str, dict[str, int]]] = {
        "logits": ("Identity", {}),
        "probabilities": ("Softmax", {"axis": -1}),
        "label": ("ArgMax", {"axis": -1, "keepdims": 0}),
    }
    kind, attributes = kinds[output]
    nodes.append(helper.make_node(kind, ["scores"], [output], **attributes))
    model = model_of(nodes, constants, {"x": ["N", 64]}, {output: ["N"] if output == "label" else ["N", 10]})
    if output == "label":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def cnn() -> Any:
    """`x` [N, 1, 8, 8] to `logits` [N, 10]: a fixed bank of filters, its features by a trained linear layer."""
    x, y = digits()
    random = np.random.default_rng(0)
    filters = random.standard_normal((16, 1, 3, 3)).astype(np.float32)
    filters -= filters.mean(axis=(2, 3), keepdims=True)
    body = [
        helper.make_node("Conv", ["x", "filters"], ["c1"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["c2"]),
        helper.make_node("MaxPool", ["c2"], ["c3"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    flat = [helper.make_node("Flatten", ["c3"], ["features"], axis=1)]
    import onnxruntime as ort

    features = model_of([*body, *flat], {"filters": filters}, {"x": ["N", 1, 8, 8]}, {"features": ["N", 256]})
    session = ort.InferenceSession(features.SerializeToString())
    (seen,) = session.run(None, {"x": x[:SEEN].reshape(-1, 1, 8, 8)})
    fitted = LogisticRegression(max_iter=400).fit(seen, y[:SEEN])
    constants = {
        "filters": filters,
        "w": np.ascontiguousarray(fitted.coef_.T.astype(np.float32)),
        "b": fitted.intercept_.astype(np.float32),
    }
    last = helper.make_node("Gemm", ["features", "w", "b"], ["logits"], name="linear")
    return model_of([*body, *flat, last], constants, {"x": ["N", 1, 8, 8]}, {"logits": ["N", 10]})


def write_samples(path: Path, count: int = 120, shape: tuple[int, ...] = (64,), *, labels: bool = False) -> Path:
    """Pictures that the models have not seen, as .npz."""
    x, y = digits()
    arrays = {"x": x[SEEN : SEEN + count].reshape(-1, *shape)}
    if labels:
        arrays["labels"] = y[SEEN : SEEN + count]
    np.savez(path, allow_pickle=False, **arrays)
    return path
