"""The Python model that serves a student of texts: a tokenizer in front of an ONNX file, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forebay.distill.students.port import Subject
from forebay.models.signature import TensorSpec

GRAPH_FILE, TOKENIZER_FILE, MODEL_FILE = "student.onnx", "tokenizer.json", "model.py"
CLASS = "Student"

_CODE = '''\
"""A student that forebay distill made: texts to tokens, and tokens through student.onnx."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import forebay


class {name}(forebay.Model):
    """Takes and answers what its teacher does."""

    inputs = {inputs}
    outputs = {outputs}
    files = ["{graph}", "{tokenizer}"]

    def load(self, device):
        folder = Path(__file__).parent
        # An instance owns `threads` threads, not all cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.tokenizer = Tokenizer.from_file(str(folder / "{tokenizer}"))
        self.tokenizer.enable_truncation({max_tokens})
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        self.session = onnxruntime.InferenceSession(
            str(folder / "{graph}"), options, [*providers, "CPUExecutionProvider"]
        )

    def predict(self, {argument}):
        texts = [value.decode("utf-8", "replace") for value in {argument}.reshape(-1)]
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        longest = max(1, max(map(len, rows)))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        found = self.session.run({names}, {{"input_ids": ids, "attention_mask": mask}})
        return dict(zip({names}, found))

    def examples(self):
        return [{{{key}: {example}}} for text in {texts}]
'''
_EXAMPLES = ("Where is my parcel?", "The river rose overnight and flooded the lower fields of the valley.")


def write(folder: Path, subject: Subject, tensors: Sequence[TensorSpec]) -> str:
    """Write `model.py`; its name as a MODEL argument in the folder."""
    (text,) = subject.signature.inputs
    outputs = subject.target.outputs
    keyword = text.name.isidentifier()
    code = _CODE.format(
        name=CLASS,
        inputs=_declared((text,)),
        outputs=_declared(outputs),
        graph=GRAPH_FILE,
        tokenizer=TOKENIZER_FILE,
        max_tokens=subject.max_tokens,
        # A name that is none in Python comes as the only keyword argument there is.
        argument=text.name if keyword else "**inputs",
        names=[spec.name for spec in outputs],
        key=repr(text.name),
        example="[text.encode()]" if text.row_shape else "text.encode()",
        texts=_EXAMPLES,
    )
    if not keyword:
        code = code.replace("**inputs.reshape(-1)", "next(iter(inputs.values())).reshape(-1)")
    (folder / MODEL_FILE).write_text(code, encoding="utf-8")
    return f"{MODEL_FILE}:{CLASS}"


def _declared(specs: Sequence[TensorSpec]) -> str:
    entries = ", ".join(f"{spec.name!r}: ({spec.datatype!r}, {list(spec.row_shape)!r})" for spec in specs)
    return f"{{{entries}}}"
