"""What every peer does alike: open the ONNX file with one thread, tokenise texts, and read its settings."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort

MAX_TOKENS = 256
"""As in examples/minilm/minilm.py."""


def setting(name: str, default: str = "") -> str:
    """A setting that the bench hands over in the environment."""
    return os.environ.get(f"BENCH_{name}", default)


def open_session() -> Any:
    """The model of this workload; one thread, as in Forebay's instances, unless THREADS says more."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(setting("THREADS", "1"))
    options.inter_op_num_threads = 1
    return ort.InferenceSession(setting("MODEL"), options, providers=["CPUExecutionProvider"])


class Embedder:
    """MiniLM behind its tokenizer: texts in, one embedding of 384 floats each out."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        self._session = open_session()
        self._tokenizer = Tokenizer.from_file(setting("TOKENIZER"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()  # to the longest of the batch

    def __call__(self, texts: list[str]) -> Any:
        """float32 [texts, 384]; padded to the longest of these texts."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        return self._session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
