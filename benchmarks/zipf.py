"""Zipf traffic, and what an exact LRU of a given size would find of it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class LruRun(NamedTuple):
    """One sequence of draws through an LRU."""

    hits: npt.NDArray[np.bool_]
    """Whether each draw found its key."""
    kept: npt.NDArray[np.int64]
    """How many keys were kept after each draw."""


def zipf_shares(keys: int, s: float = 1.0) -> npt.NDArray[np.float64]:
    """float64 [keys]: the share of all draws that falls to each key; key k is the (k+1)th most frequent one."""
    weights = np.arange(1, keys + 1, dtype=np.float64) ** -s
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def zipf_draws(keys: int, count: int, seed: int, s: float = 1.0) -> list[int]:
    """`count` independent draws from keys 0 to `keys` - 1 by Zipf's law."""
    edges = np.cumsum(zipf_shares(keys, s))
    drawn = np.searchsorted(edges, np.random.default_rng(seed).random(count), side="right")
    # The last edge may be a rounding below 1.
    ranks: list[int] = np.minimum(drawn, keys - 1).tolist()
    return ranks


def lru(draws: Sequence[int], weights: Sequence[int], room: int) -> LruRun:
    """Send draws through an exact LRU: key k takes `weights[k]` of its `room`. What does not fit alone is not kept."""
    kept: OrderedDict[int, None] = OrderedDict()
    taken = 0
    hits = np.zeros(len(draws), dtype=np.bool_)
    counts = np.zeros(len(draws), dtype=np.int64)
    for number, key in enumerate(draws):
        if key in kept:
            hits[number] = True
            kept.move_to_end(key)
        else:
            kept[key] = None
            taken += weights[key]
        while taken > room:
            taken -= weights[kept.popitem(last=False)[0]]
        counts[number] = len(kept)
    return LruRun(hits, counts)
