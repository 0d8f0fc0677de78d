"""What kind of file is this? Google's Magika (Apache-2.0), its ONNX model served in batches.

    pip install magika
    forebay serve examples/magika_types.py:FileType

The model reads up to 1,024 bytes from each end of the file, so only those and a few rules around them matter. The
package's own class answers one file at a time; here the same rules, read from the package's configuration, prepare a
whole batch. `tests/unit/examples` compares the answers with the package's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnxruntime

import forebay
from forebay.core.tensors import Array


class FileType(forebay.Model):
    """A file's content (BYTES) to its label, such as `python` (BYTES), and the model's score (FP32, 0 to 1)."""

    inputs = {"content": ("BYTES", [1])}
    outputs = {"label": ("BYTES", [1]), "score": ("FP32", [1])}

    def load(self, device: str) -> None:
        """Open the model that the installed package brings. Raises `FileNotFoundError` where it is not."""
        package = Path(magika.__file__).parent
        found = sorted(package.glob("models/*/model.onnx"))
        if not found:
            raise FileNotFoundError(f"no model.onnx under {package / 'models'}; install magika 0.6.2 or later")
        rules, knowledge = found[-1].with_name("config.min.json"), package / "config" / "content_types_kb.min.json"
        self.files = [found[-1], rules, knowledge]
        self.config = json.loads(rules.read_text())
        if self.config["mid_size"] or self.config["use_inputs_at_offsets"]:
            raise ValueError(f"{found[-1].parent} reads more of a file than its two ends, which this example cannot")
        kinds = json.loads(knowledge.read_text())
        self.text_labels = {label for label, kind in kinds.items() if kind["is_text"]}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        self.session = onnxruntime.InferenceSession(str(found[-1]), options, [*providers, "CPUExecutionProvider"])

    def predict(self, content: Array) -> dict[str, Array]:
        """`content`: object [rows, 1] of bytes. Returns `label`, object [rows, 1] of bytes, and `score` [rows, 1]."""
        files: list[bytes] = content[:, 0].tolist()
        labels = [self._label_without_model(file) for file in files]
        scores = np.ones((len(files), 1), dtype=np.float32)
        asked = [index for index, label in enumerate(labels) if label is None]
        if asked:
            features = np.stack([self._features(files[index]) for index in asked])
            (shares,) = self.session.run(["target_label"], {"bytes": features})
            best = shares.argmax(axis=1)
            for row, index in enumerate(asked):
                score = shares[row, best[row]]
                labels[index] = self._trusted(self.config["target_labels_space"][best[row]], float(score))
                scores[index, 0] = score
        out = np.empty((len(files), 1), dtype=object)
        out[:, 0] = [label.encode() for label in labels if label is not None]
        return {"label": out, "score": scores}

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """Three small files."""
        contents = (
            b"import os\n\nprint(os.getcwd())\n",
            b'{"name": "forebay", "rows": [1, 2, 3]}',
            b"%PDF-1.7\n%\xe2\xe3\n",
        )
        return [{"content": [content]} for content in contents]

    def _label_without_model(self, file: bytes) -> str | None:
        """Files with too few bytes, spaces at the start aside, to ask the model about."""
        if not file:
            return "empty"
        least, block = self.config["min_file_size_for_dl"], self.config["block_size"]
        head = file[:block]
        if len(file) >= least and len(head.lstrip()) >= least:
            return None
        try:
            head.decode()
        except UnicodeDecodeError:
            return "unknown"
        return "txt"

    def _features(self, file: bytes) -> Array:
        """Both ends of the file without outer spaces, as byte values padded inwards: int32 [2048]."""
        block, first, last = self.config["block_size"], self.config["beg_size"], self.config["end_size"]
        features = np.full(first + last, self.config["padding_token"], dtype=np.int32)
        head = np.frombuffer(file[:block].lstrip()[:first], dtype=np.uint8)
        tail = np.frombuffer(file[-block:].rstrip()[-last:], dtype=np.uint8)
        features[: head.size] = head
        features[features.size - tail.size :] = tail
        return features

    def _trusted(self, label: str, score: float) -> str:
        """The label to answer: a general one where the score is below the label's threshold."""
        answer: str = self.config["overwrite_map"].get(label, label)
        if score >= self.config["thresholds"].get(label, self.config["medium_confidence_threshold"]):
            return answer
        return "txt" if answer in self.text_labels else "unknown"
