"""MiniLM sentence embeddings as a Python model: text in, a vector of length 1 out; texts of like meaning are near.

python examples/minilm/build.py
forebay serve examples/minilm/minilm.py:MiniLM
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import forebay
from forebay.core.tensors import Array

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"
MAX_TOKENS = 256
"""What the model was trained for (`max_seq_length` of the original); the rest of a longer text is not read."""

SENTENCES = (
    "Where is my parcel?",
    "The river rose overnight and flooded the lower fields.",
    "A forebay is the pool above a power station: water gathers there before it runs through the turbines.",
    "Batching pays where the fixed cost of a run is large against the cost of one more row. On a graphics card that "
    "is nearly always so; on a single core it often is not, because the arithmetic itself is the cost, and because "
    "texts of different lengths must be padded to the longest of them before they can share a run.",
)


class MiniLM(forebay.Model):
    """UTF-8 text (BYTES) to its embedding (FP32, 384 numbers, L2 norm 1). Cosine similarity is the dot product."""

    inputs = {"text": ("BYTES", [1])}
    outputs = {"embedding": ("FP32", [384])}

    folder: Path = FOLDER
    """Where `build.py` wrote `minilm.onnx` and `tokenizer.json`; may be set before `load`."""

    def load(self, device: str) -> None:
        """Open the graph and the tokenizer. Raises `FileNotFoundError` that tells how to build them."""
        model, vocabulary = self.folder / "minilm.onnx", self.folder / "tokenizer.json"
        self.files = [model, vocabulary]
        if not model.is_file() or not vocabulary.is_file():
            raise FileNotFoundError(f"{model} is not there; build it with: python examples/minilm/build.py")
        # Tokenising is a small part of the work, and the instance owns `threads` threads, not all cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()  # to the longest of the batch; the file asks for a fixed 128
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        self.session = onnxruntime.InferenceSession(str(model), options, [*providers, "CPUExecutionProvider"])

    def predict(self, text: Array) -> Array:
        """`text`: object [rows, 1] of bytes. Returns float32 [rows, 384]."""
        texts = [value.decode("utf-8", "replace") for value in text[:, 0]]
        encodings = self.tokenizer.encode_batch_fast(texts)
        feed = {
            "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        }
        (embedding,) = self.session.run(["embedding"], feed)
        return np.asarray(embedding)

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Sentences of 4 to 55 words."""
        return [{"text": [sentence.encode()]} for sentence in SENTENCES]
