"""Outliers moved from activations into weights, or out of 8 bits altogether, before either is rounded.

A few channels of a transformer's activations are tens of times larger than the rest, and one range for all leaves the
rest few steps. Dividing each channel by `s` and multiplying the weights that read it by `s` changes nothing but the
ranges. Source: SmoothQuant, https://arxiv.org/abs/2211.10438. How much goes to the weights is tried out for each
activation, since what helps behind a LayerNorm may hurt behind a GELU. Where that is not enough, the loudest channels
are multiplied in floating point by themselves, and are 0 where the rest is in 8 bits. Source: LLM.int8(),
https://arxiv.org/abs/2208.07339; here the channels are fixed beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebay.core.tensors import Array
from forebay.optimize.samples import Row, batch_of

_SHARES = (0.25, 0.5, 0.75, 0.9)
"""How much of the difference between channels goes to the weights; none is tried too."""
_LOUD_CHANNELS, _LOUD_SHARE = 16, 16
"""Most channels that are taken out of an activation, and that part of them: one in so many."""
_WORTH = 1e-4
"""Taking channels out costs time. It has to save this share of the variance of what is computed with them."""
_LEAST = 1e-5
_KEPT_VECTORS = 512
_WEIGHT_STEPS, _STEPS = 127, 255


@dataclass(frozen=True)
class Smoothed:
    """The same function. `loud`: names of the MatMuls of channels that were taken out, which stay in floats."""

    model: Any
    loud: frozenset[str]


def smooth(model: Any, rows: Sequence[Row], *, loud: bool) -> Smoothed:
    """Every MatMul of constant weights smoothed; `model` stays as it is. loud: loud channels may be taken out."""
    from onnx import numpy_helper

    model = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2:
            readers.setdefault(node.input[0], []).append(node)
    if not readers:
        return Smoothed(model, frozenset())
    seen = _channels(model, list(readers), rows)
    writer = _Writer(model)
    for tensor, consumers in readers.items():
        arrays = [numpy_helper.to_array(weights[node.input[1]]) for node in consumers]
        change = _best(seen[tensor], np.concatenate(arrays, axis=1), loud=loud)
        if change is not None:
            writer.change(tensor, consumers, arrays, change)
    return Smoothed(writer.finished(), frozenset(writer.loud))


@dataclass(frozen=True)
class _Channels:
    """What was seen of one activation: least and largest value by channel, and some vectors [n, channels]."""

    least: Array
    largest: Array
    vectors: Array


@dataclass(frozen=True)
class _Change:
    """float32 [channels] to divide an activation by, and the channels (sorted, maybe none) to take out of it."""

    scale: Array
    loud: Array

    def of_activation(self) -> Array:
        """What the activation is multiplied by, float32 [channels]."""
        factor = 1 / self.scale
        factor[self.loud] = 0
        return factor

    def of_weights(self, weights: Array) -> Array:
        """Weights [channels, outputs] for what is left of the activation."""
        changed = weights * self.scale[:, np.newaxis]
        changed[self.loud] = 0
        return changed


class _Writer:
    """Changes the nodes of one model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self.loud: list[str] = []

    def change(self, tensor: str, consumers: Sequence[Any], arrays: Sequence[Array], change: _Change) -> None:
        """Lets consumers read a scaled tensor with weights that undo that, and the loud channels beside it."""
        smoothing = self._constant(f"{tensor}_smoothing", change.of_activation())
        self._insert(min(map(self._place, consumers)), "Mul", [tensor, smoothing], f"{tensor}_smooth")
        if len(change.loud):
            channels = self._constant(f"{tensor}_channels", change.loud)
            self._insert(min(map(self._place, consumers)), "Gather", [tensor, channels], f"{tensor}_loud", axis=-1)
        for node, array in zip(consumers, arrays, strict=True):
            name = f"{node.input[1]}_{node.name}"  # other nodes may read the same weights
            node.input[0] = f"{tensor}_smooth"
            node.input[1] = self._constant(f"{name}_smooth", change.of_weights(array))
            if len(change.loud):
                self._add_loud(node, tensor, self._constant(f"{name}_loud", array[change.loud]))

    def _add_loud(self, node: Any, tensor: str, weights: str) -> None:
        whole, place = node.output[0], self._place(node) + 1
        node.output[0] = f"{whole}_quiet"
        self._insert(place, "MatMul", [f"{tensor}_loud", weights], f"{whole}_loud")
        self.loud.append(self._nodes[place].name)
        self._insert(place + 1, "Add", [f"{whole}_quiet", f"{whole}_loud"], whole)

    def finished(self) -> Any:
        """The model with what is read of it."""
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(self._nodes)
        read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self._model

    def _place(self, wanted: Any) -> int:
        return next(index for index, node in enumerate(self._nodes) if node is wanted)

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self._model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _insert(self, place: int, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        name = f"{kind}_of_{output}"
        self._nodes.insert(place, helper.make_node(kind, list(inputs), [output], name=name, **attributes))


def _best(seen: _Channels, weights: Array, *, loud: bool) -> _Change | None:
    """Of the changes tried, the one with the smallest error of the product with `weights` [channels, outputs], what
    it costs included. None: leaving it as it is has that.
    """
    wanted = seen.vectors @ weights
    variance = wanted.var(axis=0)
    variance = np.maximum(variance, max(float(variance.mean()) * _LEAST, _LEAST**4))  # an output may be constant
    x = np.maximum(np.maximum(np.abs(seen.least), np.abs(seen.largest)), _LEAST)
    w = np.maximum(np.abs(weights).max(axis=1), _LEAST)
    none = np.array([], np.int64)
    best, least_error = None, _error(seen, weights, _Change(np.ones_like(x), none), wanted, variance)
    for share in (0.0, *_SHARES):
        scale = np.maximum(x**share / w ** (1 - share), _LEAST).astype(np.float32) if share else np.ones_like(x)
        loudest = np.argsort(-x / scale, kind="stable")[: min(_LOUD_CHANNELS, len(x) // _LOUD_SHARE)]
        for channels in (none, np.sort(loudest)) if loud else (none,):
            change = _Change(scale, channels)
            error = _error(seen, weights, change, wanted, variance) + (_WORTH if len(channels) else 0.0)
            if error < least_error:
                best, least_error = change, error
    return best


def _error(seen: _Channels, weights: Array, change: _Change, wanted: Array, variance: Array) -> float:
    """Mean over outputs of the squared error of the product in 8 bits, activations by one range and weights by column,
    as a share of the output's variance.
    """
    factor = change.of_activation()
    low, high = min(float(np.min(seen.least * factor)), 0.0), max(float(np.max(seen.largest * factor)), 0.0)
    step = max((high - low) / _STEPS, 1e-12)
    x = np.clip(np.round((seen.vectors * factor - low) / step), 0, _STEPS) * step + low
    heavier = change.of_weights(weights)
    steps = np.maximum(np.abs(heavier).max(axis=0), 1e-12) / _WEIGHT_STEPS
    found = x @ (np.round(heavier / steps) * steps) + seen.vectors[:, change.loud] @ weights[change.loud]
    return float(np.mean((found - wanted) ** 2 / variance))


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
        # Asked for nothing, ONNX Runtime gives everything.
        ran = session.run(asked, feed) if asked else []
        values = dict(zip(asked, ran, strict=True)) | {name: feed[name] for name in tensors if name in inputs}
        for name, value in values.items():
            flat = value.reshape(-1, value.shape[-1])
            least, largest, some = flat.min(axis=0), flat.max(axis=0), flat[:: max(1, len(flat) // each)][:each]
            if name in found:
                was = found[name]
                least, largest = np.minimum(was.least, least), np.maximum(was.largest, largest)
                some = np.concatenate([was.vectors, some])
            found[name] = _Channels(least, largest, some)
    return found
