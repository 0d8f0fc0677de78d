"""Texts to the inputs of a model that takes tokens, by a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize.samples import Tokenize

FILE = "tokenizer.json"
MOST_TOKENS = 256
"""Of a text, unless somebody says otherwise; longer ones are cut."""


def tokenizer_beside(source: Path) -> Path | None:
    """The tokenizer in a model's folder, if there is one."""
    file = (source if source.is_dir() else source.parent) / FILE
    return file if file.is_file() else None


def open_tokenizer(file: Path, max_tokens: int) -> Tokenize:
    """What makes `input_ids`, `attention_mask` and `token_type_ids`, INT64 [tokens], of texts, without padding.

    Raises `SetupError` where the library or the file is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise SetupError("texts need a tokenizer: pip install 'forebay[optimize]'") from None
    if not file.is_file():
        raise SetupError(f"--tokenizer {file}: there is no such file")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise SetupError(f"--tokenizer {file}: {error}") from None
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()

    def tokenize(texts: Sequence[str]) -> list[dict[str, Array]]:
        rows = []
        for encoding in tokenizer.encode_batch(list(texts)):
            columns = {
                "input_ids": encoding.ids,
                "attention_mask": encoding.attention_mask,
                "token_type_ids": encoding.type_ids,
            }
            rows.append({name: np.array(values, np.int64) for name, values in columns.items()})
        return rows

    return tokenize
