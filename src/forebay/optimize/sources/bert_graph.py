"""BERT as an ONNX graph, written from torch's weights without torch.

Only standard ONNX operators are written, so that other runtimes read the file too. On one x86-64 core with ONNX
Runtime 1.32 nothing that was tried is faster: its own Attention and MultiHeadAttention operators, one product for
query, key and value, or Gemm differ by at most 2 %, and its SkipLayerNormalization fusion costs 8 %. It applies that
fusion only where it knows the shapes of both summands, so no intermediate shapes are written. MatMul takes 85 % of
the time.

Token types are always 0, so their row is added to the position table here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

OPSET = 17
MASKED = -10_000.0
"""Added to the attention scores of padding: small enough for a weight of 0, the value the optimiser looks for."""

Weights = Mapping[str, Any]
"""Names as in `BertModel.state_dict()`, float32 arrays."""

Pooling = Literal["mean", "first", "none"]
"""Mean over the tokens that the mask keeps, the first token, or all tokens as they are."""


Activation = Literal["", "Tanh", "Relu", "Sigmoid"]
"""An operator; empty: none."""

Head = Literal["none", "bert", "roberta", "tokens"]
"""A classifier: BERT's pooler and a linear layer on it, RoBERTa's two layers on the first token, or a linear layer on
each token.
"""


class Dense(msgspec.Struct, frozen=True):
    """A linear layer behind the pooling. `name`: of its weights."""

    name: str
    activation: Activation = ""


class BertShape(msgspec.Struct, frozen=True, kw_only=True):
    """What the weights do not tell."""

    heads: int
    epsilon: float = 1e-12
    first_position: int = 0
    """Row of the position table for the first token: 0, or for RoBERTa the padding's id plus 1."""
    pooling: Pooling = "mean"
    dense: tuple[Dense, ...] = ()
    """Behind the pooling, before vectors are normalised."""
    normalise: bool = True
    head: Head = "none"
    """Gives `logits` in place of an embedding."""


class GraphWriter:
    """Collects nodes and initializers; each operator method returns its output's name."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._make_node, self._from_array = helper.make_node, numpy_helper.from_array
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        """An initializer, added once; `name` is returned."""
        if name not in self.initializers:
            self.initializers[name] = self._from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One node with one output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, name: str, weights: Weights, output: str = "") -> str:
        """x @ W.T + b, with torch's [out, in] weight stored as [in, out]. Without b where the weights have none."""
        product = self.op("MatMul", x, self.constant(f"{name}.weight", weights[f"{name}.weight"].T))
        if f"{name}.bias" not in weights:
            return self.op("Identity", product, output=output) if output else product
        return self.op("Add", product, self.constant(f"{name}.bias", weights[f"{name}.bias"]), output=output)

    def norm(self, x: str, name: str, weights: Weights, epsilon: float) -> str:
        """LayerNorm over the last axis."""
        scale = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """x * (1 + erf(x / sqrt(2))) / 2, as written by exporters."""
        erf = self.op("Erf", self.op("Div", x, self.constant("sqrt2", np.float32(np.sqrt(2)))))
        whole = self.op("Mul", x, self.op("Add", erf, self.constant("one", np.float32(1))))
        return self.op("Mul", whole, self.constant("half", np.float32(0.5)))


def embed(g: GraphWriter, weights: Weights, shape: BertShape) -> str:
    """Word plus position plus token type 0, normalised: [N, L, hidden]."""
    positions = weights["embeddings.position_embeddings.weight"][shape.first_position :]
    table = positions + weights["embeddings.token_type_embeddings.weight"][0]
    words = g.op("Gather", g.constant("words", weights["embeddings.word_embeddings.weight"]), "input_ids")
    length = g.op("Shape", "input_ids", start=1, end=2)
    zero, axis = g.constant("zero", np.array([0])), g.constant("axis_0", np.array([0]))
    here = g.op("Slice", g.constant("positions", table), zero, length, axis)
    return g.norm(g.op("Add", words, here), "embeddings.LayerNorm", weights, shape.epsilon)


def attend(g: GraphWriter, x: str, mask: str, layer: str, weights: Weights, count: int) -> str:
    """Multi-head self-attention and its output projection. `mask`: [N, 1, 1, L], added to the scores."""
    hidden = weights["embeddings.LayerNorm.weight"].size
    split = g.constant("split_heads", np.array([0, 0, count, hidden // count]))

    def heads(part: str, order: list[int]) -> str:
        flat = g.linear(x, f"{layer}.attention.self.{part}", weights)
        return g.op("Transpose", g.op("Reshape", flat, split), perm=order)

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    root = g.constant("root_of_head_size", np.float32(np.sqrt(hidden // count)))
    scores = g.op("Div", g.op("MatMul", query, key), root)
    shares = g.op("Softmax", g.op("Add", scores, mask), axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    merged = g.op("Reshape", mixed, g.constant("merge_heads", np.array([0, 0, hidden])))
    return g.linear(merged, f"{layer}.attention.output.dense", weights)


def pool(g: GraphWriter, x: str) -> str:
    """Mean over the tokens kept by the mask, [N, hidden]."""
    mask = g.op("Cast", "attention_mask", to=_float())
    column = g.op("Unsqueeze", mask, g.constant("axis_2", np.array([2])))
    total = g.op("ReduceSum", g.op("Mul", x, column), g.constant("axis_1", np.array([1])), keepdims=0)
    # A row without any token cannot come from the tokenizer; for one sent by hand the mean is 0, not NaN.
    count = g.op("Max", g.op("ReduceSum", mask, "axis_1", keepdims=1), g.constant("one", np.float32(1)))
    return g.op("Div", total, count)


def first_token(g: GraphWriter, x: str) -> str:
    """What stands for the whole text in BERT, [N, hidden]."""
    first = g.op("Gather", x, g.constant("axis_0", np.array([0])), axis=1)
    return g.op("Squeeze", first, g.constant("axis_1", np.array([1])))


def normalise(g: GraphWriter, x: str, output: str) -> None:
    """To length 1."""
    length = g.op("Max", g.op("ReduceL2", x, axes=[1], keepdims=1), g.constant("tiny", np.float32(1e-12)))
    g.op("Div", x, length, output=output)


def classify(g: GraphWriter, x: str, weights: Weights, head: Head) -> list[Any]:
    """Writes `logits`; returns their shape."""
    match head:
        case "tokens":
            g.linear(x, "classifier", weights, output="logits")
            return ["N", "L", len(weights["classifier.weight"])]
        case "roberta":
            inner, last = "classifier.dense", "classifier.out_proj"
        case _:
            inner, last = "pooler.dense", "classifier"
    pooled = g.op("Tanh", g.linear(first_token(g, x), inner, weights))
    g.linear(pooled, last, weights, output="logits")
    return ["N", len(weights[f"{last}.weight"])]


def finish(g: GraphWriter, x: str, weights: Weights, shape: BertShape) -> tuple[str, list[Any]]:
    """From the last layer to the output: its name and shape."""
    hidden = int(weights["embeddings.LayerNorm.weight"].size)
    if shape.head != "none":
        return "logits", classify(g, x, weights, shape.head)
    if shape.pooling == "none":
        g.op("Identity", x, output="last_hidden_state")
        return "last_hidden_state", ["N", "L", hidden]
    whole = pool(g, x) if shape.pooling == "mean" else first_token(g, x)
    for layer in shape.dense:
        whole = g.linear(whole, layer.name, weights)
        whole = g.op(layer.activation, whole) if layer.activation else whole
        hidden = len(weights[f"{layer.name}.weight"])
    if shape.normalise:
        normalise(g, whole, "embedding")
    else:
        g.op("Identity", whole, output="embedding")
    return "embedding", ["N", hidden]


def write_bert(weights: Weights, shape: BertShape, name: str, producer: str) -> Any:
    """The whole model, an `onnx.ModelProto` that `onnx.checker` has passed. Inputs `input_ids` and `attention_mask`,
    INT64 [N, L]; output `embedding` [N, hidden], `last_hidden_state` [N, L, hidden] or `logits` [N, classes], of tokens
    [N, L, classes].
    """
    from onnx import TensorProto, checker, helper

    g = GraphWriter()
    x = embed(g, weights, shape)
    row = g.op("Unsqueeze", "attention_mask", g.constant("axis_1", np.array([1])))
    cube = g.op("Cast", g.op("Unsqueeze", row, g.constant("axis_2", np.array([2]))), to=_float())
    hidden_part = g.op("Sub", g.constant("one", np.float32(1)), cube)
    mask = g.op("Mul", hidden_part, g.constant("masked", np.float32(MASKED)))
    for number in range(layers_of(weights)):
        layer = f"encoder.layer.{number}"
        attended = g.op("Add", attend(g, x, mask, layer, weights, shape.heads), x)
        x = g.norm(attended, f"{layer}.attention.output.LayerNorm", weights, shape.epsilon)
        wide = g.gelu(g.linear(x, f"{layer}.intermediate.dense", weights))
        narrow = g.linear(wide, f"{layer}.output.dense", weights)
        x = g.norm(g.op("Add", narrow, x), f"{layer}.output.LayerNorm", weights, shape.epsilon)
    output, axes = finish(g, x, weights, shape)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", "L"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, axes)]
    graph = helper.make_graph(g.nodes, name, inputs, outputs, list(g.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=producer)
    model.ir_version = 8  # the oldest that goes with opset 17, so that older runtimes read it too
    checker.check_model(model)
    return model


def layers_of(names: Sequence[str] | Weights) -> int:
    """How many layers the weights have."""
    return 1 + max((int(name.split(".")[2]) for name in names if name.startswith("encoder.layer.")), default=-1)


def _float() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT)
