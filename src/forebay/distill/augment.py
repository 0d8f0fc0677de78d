"""Texts made of texts, for a teacher to answer too: spans of words, and texts with words left out, as in Tang et al.
2019 (arXiv 1903.12136). A span is what a model of single tokens and pairs can learn most of. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.core.tensors import as_bytes, bytes_array
from forebay.optimize.samples import Row

_SPANS = 0.6
"""Share of spans; the rest are texts with words left out."""
_LONGEST_SPAN = 6
_LEFT_OUT = 0.2


def made_up(rows: Sequence[Row], each: int, seed: int) -> list[Row]:
    """So many of each text of one BYTES input; those of one word give none. The same seed gives the same texts."""
    random = np.random.default_rng((seed, 1))
    found: list[Row] = []
    for row in rows:
        ((name, value),) = row.items()
        words = as_bytes(value.reshape(-1)[0]).decode("utf-8", "replace").split()
        if len(words) < 2:
            continue
        for _ in range(each):
            text = " ".join(_span(words, random) if random.random() < _SPANS else _thinned(words, random))
            found.append({name: bytes_array([text.encode()], value.shape)})
    return found


def _span(words: list[str], random: np.random.Generator) -> list[str]:
    length = int(random.integers(1, min(_LONGEST_SPAN, len(words) - 1) + 1))
    start = int(random.integers(0, len(words) - length + 1))
    return words[start : start + length]


def _thinned(words: list[str], random: np.random.Generator) -> list[str]:
    kept = [word for word in words if random.random() >= _LEFT_OUT]
    return kept or words[:1]
