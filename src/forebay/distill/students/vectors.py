"""Vectors of tokens that others have learned, for a student to begin with: the table of a BERT, or of Model2Vec."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize.sources.files import WEIGHTS, read_tensors

_NAMES: Final = ("word_embeddings.weight", "embeddings", "embedding.weight", "embed_tokens.weight", "wte.weight")
"""Ends of names that such a table has: of BERT's family, Model2Vec, sentence-transformers, Llama's and GPT-2's."""
_SHOWN: Final = 5


def read_vectors(folder: Path) -> Array:
    """float32 [ids, width] from the folder's safetensors. Raises `SetupError` where they hold no such table."""
    tensors = {name: value for name, value in read_tensors(folder).items() if value.ndim == 2}
    for end in _NAMES:
        found = [name for name in tensors if name == end or name.endswith(f".{end}")]
        if len(found) == 1:
            table = tensors[found[0]]
            if table.size and np.isfinite(table).all():
                return np.asarray(table, np.float32)
            raise SetupError(f"--vectors {folder}: tensor {found[0]} is empty, or holds numbers that are not finite")
    there = ", ".join(list(tensors)[:_SHOWN]) or "none"
    raise SetupError(
        f"--vectors {folder}: of the tensors with two axes in {WEIGHTS} ({there}{', ...' * (len(tensors) > _SHOWN)}) "
        f"none is called {', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
    )


def of_width(table: Array, width: int, spread: float) -> Array:
    """float32 [ids, width]: the directions in which the vectors differ most (principal components), scaled so that
    their numbers have this standard deviation. A narrower table is filled up with zeros."""
    centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    kept = centred @ directions[:, ::-1][:, :width]
    kept = np.pad(kept, ((0, 0), (0, width - kept.shape[1])))
    return np.asarray(kept * (spread / max(float(kept.std()), 1e-12)), np.float32)
