"""Outliers moved from activations into weights, before either is rounded to 8 bits.

A few channels of a transformer's activations are tens of times larger than the rest, and one range for all leaves the
rest few steps. Dividing each channel by `s` and multiplying the weights that read it by `s` changes nothing but the
ranges. Source: SmoothQuant, https://arxiv.org/abs/2211.10438. How much goes to the weights is tried out for each
activation, since what helps behind a LayerNorm may hurt behind a GELU.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.samples import Row, batch_of

_SHARES = (0.25, 0.5, 0.75)
"""How much of the difference between channels goes to the weights; none is tried too."""
_LEAST = 1e-5
_KEPT_VECTORS = 256
_WEIGHT_STEPS, _STEPS = 127, 255


def smooth(model: Any, rows: Sequence[Row]) -> Any:
    """The same function with every MatMul of constant weights smoothed; `model` stays as it is."""
    from onnx import helper, numpy_helper

    model = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2:
            readers.setdefault(node.input[0], []).append(node)
    if not readers:
        return model
    seen = _channels(model, list(readers), rows)
    nodes = list(model.graph.node)
    for tensor, consumers in readers.items():
        arrays = [numpy_helper.to_array(weights[node.input[1]]) for node in consumers]
        scale = _best_scale(seen[tensor], np.concatenate(arrays, axis=1))
        if scale is None:
            continue
        model.graph.initializer.append(numpy_helper.from_array(1 / scale, f"{tensor}_smoothing"))
        mul = helper.make_node("Mul", [tensor, f"{tensor}_smoothing"], [f"{tensor}_smooth"], name=f"smooth_{tensor}")
        nodes.insert(min(_place(nodes, node) for node in consumers), mul)
        for node, array in zip(consumers, arrays, strict=True):
            name = f"{node.input[1]}_{node.name}_smooth"  # other nodes may read the same weights
            model.graph.initializer.append(numpy_helper.from_array(array * scale[:, np.newaxis], name))
            node.input[0], node.input[1] = f"{tensor}_smooth", name
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unread(model)
    return model


def _place(nodes: Sequence[Any], wanted: Any) -> int:
    return next(index for index, node in enumerate(nodes) if node is wanted)


@dataclass
class _Channels:
    """What was seen of one activation: least and largest value by channel, and some vectors [n, channels]."""

    least: Array
    largest: Array
    vectors: Array


def _best_scale(seen: _Channels, weights: Array) -> Array | None:
    """float32 [channels] to divide the activation by, of those tried the one with the smallest error of the product
    with `weights` [channels, outputs]. None: leaving it as it is has that.
    """
    wanted = seen.vectors @ weights
    x = np.maximum(np.maximum(np.abs(seen.least), np.abs(seen.largest)), _LEAST)
    w = np.maximum(np.abs(weights).max(axis=1), _LEAST)
    best, least_error = None, _error(seen, weights, np.ones_like(x), wanted)
    for share in _SHARES:
        scale = np.maximum(x**share / w ** (1 - share), _LEAST).astype(np.float32)
        error = _error(seen, weights, scale, wanted)
        if error < least_error:
            best, least_error = scale, error
    return best


def _error(seen: _Channels, weights: Array, scale: Array, wanted: Array) -> float:
    """Mean squared error of the product in 8 bits: activations by one range, weights by column."""
    low, high = min(float(np.min(seen.least / scale)), 0.0), max(float(np.max(seen.largest / scale)), 0.0)
    step = max((high - low) / _STEPS, 1e-12)
    x = np.clip(np.round((seen.vectors / scale - low) / step), 0, _STEPS) * step + low
    heavier = weights * scale[:, np.newaxis]
    steps = np.maximum(np.abs(heavier).max(axis=0), 1e-12) / _WEIGHT_STEPS
    return float(np.mean((x @ (np.round(heavier / steps) * steps) - wanted) ** 2))


def _channels(model: Any, tensors: Sequence[str], rows: Sequence[Row]) -> dict[str, _Channels]:
    """What the rows bring to each tensor, by its last axis."""
    import onnxruntime as ort
    from onnx import helper

    model = copy.deepcopy(model)
    outputs = {output.name for output in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in tensors if name not in outputs | inputs
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    found: dict[str, _Channels] = {}
    asked = [name for name in tensors if name not in inputs]
    each = -(-_KEPT_VECTORS // max(1, len(rows)))
    for row in rows:
        feed = batch_of([row])
        values = dict(zip(asked, session.run(asked, feed), strict=True)) | {
            name: feed[name] for name in tensors if name in inputs
        }
        for name, value in values.items():
            flat = value.reshape(-1, value.shape[-1])
            least, largest, some = flat.min(axis=0), flat.max(axis=0), flat[:: max(1, len(flat) // each)][:each]
            if name in found:
                was = found[name]
                least, largest = np.minimum(was.least, least), np.maximum(was.largest, largest)
                some = np.concatenate([was.vectors, some])
            found[name] = _Channels(least, largest, some)
    return found


def _drop_unread(model: Any) -> None:
    read = {name for node in model.graph.node for name in node.input} | {one.name for one in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
