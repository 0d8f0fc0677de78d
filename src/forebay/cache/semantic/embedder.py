"""Whether an embedder may be used: its vectors must not depend on what else is in its batch, and it must read texts to
their end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array

Embed = Callable[[Sequence[str]], Awaitable[Array]]
"""Vectors [rows, dimension] of some texts, run together in one batch."""

TOLERANCE: Final = 1e-3
"""Largest distance between a text's vectors alone and in a batch: no cosine changes by more."""
_UNREAD: Final = 1e-6
"""Distance below which another end of a text has made no difference."""
_SHOWN_CHARACTERS: Final = 80

_PROBES: Final = (
    "Where is my parcel?",
    "no",
    "The river rose overnight and flooded the lower fields, and by the morning the road to the mill was closed.",
    "A forebay is the pool above a power station: water gathers there before it runs through the turbines.",
    "How long does it take to boil an egg?",
)


class EmbedderCheck(NamedTuple):
    """`invariant`: may run in batches. Else it must run alone, or the same text has another vector at another time."""

    invariant: bool
    distance: float
    dimension: int


async def check_embedder(embed: Embed, max_text_bytes: int) -> EmbedderCheck:
    """Run an embedder on texts alone and together, and on a longest text with two ends.

    Raises `SetupError` for one whose output is no vector a text, or that does not read a text of `max_text_bytes` to
    its end: two texts that differ there would be one to it.
    """
    together = unit_vectors(await embed(_PROBES), _PROBES)
    alone = np.concatenate([unit_vectors(await embed([text]), [text]) for text in _PROBES])
    if alone.shape != together.shape:
        raise SetupError(f"the embedder gives {alone.shape[1]} numbers alone and {together.shape[1]} in a batch")
    distance = float(np.linalg.norm(alone - together, axis=1).max())
    # Single letters: a token for every two bytes, more than ordinary text has.
    filler = "a b c d e f g h i j k l m n o p " * (1 + max_text_bytes // 32)
    one, other = (f"{filler[: max_text_bytes - 12]} {end}" for end in ("turbines.", "strawberry"))
    ends = np.concatenate([unit_vectors(await embed([text]), [text]) for text in (one, other)])
    if float(np.linalg.norm(ends[0] - ends[1])) < _UNREAD:
        raise SetupError(
            f"the embedder does not read a text of {max_text_bytes} bytes to its end; lower semantic_max_text_bytes"
        )
    return EmbedderCheck(distance <= TOLERANCE, distance, alone.shape[1])


def unit_vectors(output: Array, texts: Sequence[str]) -> Array:
    """The output of an embedder for these texts, at length 1, FP64. Raises `SetupError` where it is no vector a text,
    or one that has no direction: nothing can be near to it."""
    vectors = np.asarray(output, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise SetupError(
            f"the embedder's output has shape {list(vectors.shape)}; a vector for each of {len(texts)} texts is needed"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise SetupError(
            f"the embedder gives vectors that have no direction: {_shown(texts[bad[0]])} has length {lengths[bad[0]]:g}"
        )
    return np.asarray(vectors / lengths[:, np.newaxis])


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
