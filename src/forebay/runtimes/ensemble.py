"""A tree ensemble as arrays, and the same as an ONNX graph of one `ai.onnx.ml` operator. Knows no tree library.

Source: TreeEnsembleClassifier and TreeEnsembleRegressor (version 1) in https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from forebay.core.tensors import Array

Link = Literal["identity", "sigmoid", "exp", "hinge", "binary", "softmax", "one-vs-all"]
"""What becomes of the sums of leaves. The last three make classifiers, `hinge` one with a label only."""

CLASSIFIERS: frozenset[Link] = frozenset({"binary", "softmax", "one-vs-all"})


class NotConvertibleError(Exception):
    """A model that an ONNX tree ensemble cannot say exactly; it runs in its own library. The text says why."""


@dataclass(frozen=True)
class Tree:
    """One tree; a node's index is its id, node 0 the root. A row goes left where its feature is below the threshold."""

    feature: Array
    """int64 [nodes]; of no meaning for a leaf."""
    threshold: Array
    """float32 [nodes]; a leaf's value."""
    left: Array
    """int64 [nodes]; -1: the node is a leaf."""
    right: Array
    nan_left: Array
    """bool [nodes]: a missing value (NaN) goes left."""
    cover: Array | None = None
    """float [nodes]: how much of the training data came through a node; None where the file does not say."""


@dataclass(frozen=True)
class Ensemble:
    """Trees whose leaves are added up, `base` with them, tree i for output `target[i]`; then the link."""

    features: int
    trees: Sequence[Tree]
    target: Sequence[int]
    base: Sequence[float]
    mode: Literal["BRANCH_LT", "BRANCH_LEQ"]
    """Whether a value that equals the threshold goes right (LT) or left (LEQ)."""
    link: Link


def to_onnx(ensemble: Ensemble) -> bytes:
    """The graph: `input` float32 [N, features] to `label`, `probabilities` or `prediction` [N, outputs], serialised."""
    from onnx import TensorProto, helper

    outputs = len(ensemble.base)
    nodes = _nodes(ensemble)
    results: list[Any] = []
    if ensemble.link in CLASSIFIERS:
        results.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
        results.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", max(outputs, 2)]))
    elif ensemble.link == "hinge":
        results.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1]))
    else:
        results.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", outputs]))
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", ensemble.features])],
        results,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _nodes(ensemble: Ensemble) -> list[Any]:
    from onnx import TensorProto, helper

    if ensemble.link in CLASSIFIERS:
        labels = list(range(max(len(ensemble.base), 2)))
        post = {"binary": "LOGISTIC", "softmax": "SOFTMAX", "one-vs-all": "LOGISTIC"}[ensemble.link]
        attributes = _attributes(ensemble, "class")
        trees = helper.make_node(
            "TreeEnsembleClassifier",
            ["input"],
            ["label", "probabilities"],
            domain="ai.onnx.ml",
            classlabels_int64s=labels,
            post_transform=post,
            **attributes,
        )
        return [trees]
    attributes = _attributes(ensemble, "target")
    name = "prediction" if ensemble.link == "identity" else "margin"
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["input"], [name], domain="ai.onnx.ml", n_targets=len(ensemble.base), **attributes
    )
    if ensemble.link == "identity":
        return [trees]
    if ensemble.link == "hinge":
        zero = helper.make_node("Constant", [], ["zero"], value_float=0.0)
        above = helper.make_node("Greater", ["margin", "zero"], ["above"])
        return [trees, zero, above, helper.make_node("Cast", ["above"], ["label"], to=TensorProto.INT64)]
    operator = {"sigmoid": "Sigmoid", "exp": "Exp"}[ensemble.link]
    return [trees, helper.make_node(operator, ["margin"], ["prediction"])]


def _attributes(ensemble: Ensemble, kind: Literal["class", "target"]) -> dict[str, Any]:
    """The operator's flat lists. A leaf's weight is named by tree, node and output."""
    trees, target = list(ensemble.trees), list(ensemble.target)
    if not trees:
        raise NotConvertibleError("it has no trees")
    if ensemble.link == "binary" and all(np.all(tree.threshold[tree.left < 0] >= 0) for tree in trees):
        # ONNX Runtime takes sums of leaves that are never negative for probabilities and compares with 0.5. A leaf that
        # is negative and too small to change a sum makes it compare with 0.
        trees.append(_leaf(-float(np.finfo(np.float32).tiny)))
        target.append(0)
    sizes = [len(tree.left) for tree in trees]
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    left = np.concatenate([tree.left for tree in trees])
    right = np.concatenate([tree.right for tree in trees])
    value = np.concatenate([tree.threshold for tree in trees]).astype(np.float32)
    leaf = left < 0
    zeros = np.zeros(1, np.int64)
    return {
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.where(leaf, zeros, np.concatenate([tree.feature for tree in trees])).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", ensemble.mode).tolist(),
        "nodes_values": np.where(leaf, np.float32(0), value).tolist(),
        "nodes_truenodeids": np.where(leaf, zeros, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, zeros, right).tolist(),
        "nodes_missing_value_tracks_true": np.where(
            leaf, zeros, np.concatenate([tree.nan_left for tree in trees])
        ).tolist(),
        f"{kind}_treeids": tree_ids[leaf].tolist(),
        f"{kind}_nodeids": node_ids[leaf].tolist(),
        f"{kind}_ids": np.repeat(np.asarray(target), sizes)[leaf].tolist(),
        f"{kind}_weights": value[leaf].tolist(),
        "base_values": [float(value) for value in ensemble.base],
    }


def _leaf(value: float) -> Tree:
    nothing = np.full(1, -1, np.int64)
    return Tree(np.zeros(1, np.int64), np.array([value], np.float32), nothing, nothing, np.zeros(1, np.bool_))


def telling_rows(ensemble: Ensemble, count: int, *, seed: int = 0) -> Array:
    """float32 [count, features]: rows on which two readings of the same trees would differ, if anywhere.

    Thresholds themselves and their neighbours in float32, values between them, and in some rows NaN and infinities.
    """
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, ensemble.features)).astype(np.float32)
    feature = np.concatenate([tree.feature[tree.left >= 0] for tree in ensemble.trees] or [np.zeros(0, np.int64)])
    threshold = np.concatenate([tree.threshold[tree.left >= 0] for tree in ensemble.trees] or [np.zeros(0)])
    for column in np.unique(feature):
        points = threshold[feature == column].astype(np.float32)
        chosen = random.choice(points, count)
        kind = random.integers(0, 4, count)
        with np.errstate(over="ignore"):
            below, above = np.nextafter(chosen, np.float32(-np.inf)), np.nextafter(chosen, np.float32(np.inf))
            between = (chosen + random.choice(points, count)) / 2
        rows[:, column] = np.choose(kind, [chosen, below, above, between])
    odd = random.random(rows.shape)
    rows[(odd < 0.08) & (np.arange(count) % 4 == 0)[:, None]] = np.nan
    rows[(odd > 0.98) & (np.arange(count) % 4 == 1)[:, None]] = np.inf
    rows[(odd > 0.99) & (np.arange(count) % 4 == 1)[:, None]] = -np.inf
    return rows
