"""BERT with mean pooling in plain numpy, float64: what the built ONNX file is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from forebay.core.tensors import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])


def embed(weights: Mapping[str, Array], ids: list[int]) -> Array:
    """The embedding [384] of one text's token ids, computed without any padding."""
    mean = last_layer(weights, ids, heads=12, layers=6).mean(axis=0)
    result: Array = mean / np.linalg.norm(mean)
    return result


def last_layer(weights: Mapping[str, Array], ids: list[int], heads: int, layers: int, first_place: int = 0) -> Array:
    """Each token's vector behind the last layer, [tokens, hidden]. first_place: position of the first token."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def dense(x: Array, name: str) -> Array:
        product: Array = np.einsum("li,oi->lo", x, w[f"{name}.weight"])
        return product + w[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        result: Array = centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]
        return result

    words = w["embeddings.word_embeddings.weight"][ids]
    places = w["embeddings.position_embeddings.weight"][first_place : first_place + len(ids)]
    kinds = w["embeddings.token_type_embeddings.weight"][[0] * len(ids)]
    x = norm(words + places + kinds, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        parts = [
            np.stack(np.split(dense(x, f"{layer}.attention.self.{part}"), heads, axis=1))
            for part in ("query", "key", "value")
        ]
        query, key, value = parts
        scores = np.exp(np.einsum("hqd,hkd->hqk", query, key) / math.sqrt(query.shape[-1]))
        mixed = np.concatenate(list(scores / scores.sum(axis=-1, keepdims=True) @ value), axis=1)
        x = norm(x + dense(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        wide = dense(x, f"{layer}.intermediate.dense")
        wide = wide * 0.5 * (1 + _erf(wide / math.sqrt(2)))
        x = norm(x + dense(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
