"""Embedders that may be used, and those that may not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from forebay.cache.semantic.embedder import check_embedder
from forebay.core.errors import SetupError
from forebay.core.tensors import Array


def vector(text: str) -> Array:
    return np.asarray(np.random.default_rng(zlib.crc32(text.encode())).standard_normal(16), np.float32)


class Embedder:
    """Vectors by a text's hash; what `spoil` does to them depends on the batch."""

    def __init__(self, spoil: Callable[[Array], Array] = lambda rows: rows, reads_bytes: int = 10_000) -> None:
        self._spoil = spoil
        self._reads_bytes = reads_bytes

    async def __call__(self, texts: Sequence[str]) -> Array:
        return self._spoil(np.stack([vector(text[: self._reads_bytes]) for text in texts]))


async def test_an_embedder_that_gives_the_same_in_a_batch_may_run_in_batches() -> None:
    found = await check_embedder(Embedder(lambda rows: rows * 3), 1000)
    assert (found.invariant, found.dimension) == (True, 16)
    assert found.distance < 1e-6


async def test_rounding_is_no_difference_but_the_rest_of_a_batch_is() -> None:
    assert (await check_embedder(Embedder(lambda rows: rows + 1e-5 * len(rows)), 1000)).invariant
    mixed = await check_embedder(Embedder(lambda rows: rows + 0.1 * rows.mean(axis=0)), 1000)
    assert not mixed.invariant
    assert mixed.distance > 0.01


async def test_a_text_that_is_not_read_to_its_end_is_refused() -> None:
    await check_embedder(Embedder(reads_bytes=600), 600)
    with pytest.raises(SetupError, match="does not read a text of 1000 bytes to its end; lower semantic_max_text"):
        await check_embedder(Embedder(reads_bytes=600), 1000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows[:, 0], "has shape"),
        (lambda rows: rows[:1], "has shape"),
        (lambda rows: rows * 0, "no direction: 'Where is my parcel\\?' has length 0"),
        (lambda rows: rows * np.nan, "no direction"),
        (lambda rows: rows[:, : 8 * min(2, len(rows))], "8 numbers alone and 16 in a batch"),
    ],
)
async def test_what_is_no_vector_a_text_is_refused(spoil: Callable[[Array], Array], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        await check_embedder(Embedder(spoil), 100)
