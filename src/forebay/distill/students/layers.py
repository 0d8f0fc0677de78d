"""Every n-th layer of a BERT: a student that begins as its teacher with layers left out, as in DistilBERT
(arXiv 1910.01108). The teacher is a Hugging Face folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.distill.students.port import Module, Subject, described, takes_tokens
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import MASK, Row
from forebay.optimize.sources.bert import read_bert
from forebay.optimize.sources.bert_graph import MASKED, BertShape, Weights, layers_of

_DROPOUT = 0.1


def check_bert(folder: Path | None, signature: Signature) -> Path:
    """The folder that layers are taken of. Raises `SetupError` where there is none, or rows are no tokens."""
    if folder is None or not (folder / "config.json").is_file():
        raise SetupError(
            "--student every-nth-layer is cut out of its teacher, which has to be a Hugging Face folder "
            "(config.json, model.safetensors); use static-embedding, or file.py:factory"
        )
    if not takes_tokens(signature):
        raise SetupError(f"--student every-nth-layer takes tokens; the teacher takes {described(signature)}")
    return folder


class FewerLayers:
    """See `Network`."""

    def __init__(self, subject: Subject, every: int) -> None:
        folder = check_bert(subject.teacher, subject.signature)
        self._weights, self._shape, note = read_bert(folder)
        layers = layers_of(self._weights)
        self._kept = list(range(0, layers, every))
        if len(self._kept) == layers:
            raise SetupError(f"--every {every}: the teacher has {layers} layers and the student would have as many")
        if self._shape.dense or (self._shape.pooling == "none" and self._shape.head != "bert"):
            raise SetupError(
                f"{folder}: {note}; --student every-nth-layer is for a BERT with a classifier, or with a pooling and "
                "nothing behind it; use static-embedding, or file.py:factory"
            )
        self.tensors: Sequence[TensorSpec] = subject.signature.inputs
        self.rate, self.batch, self.epochs = 5e-5, 16, 5
        self.about = f"layers {', '.join(str(place + 1) for place in self._kept)} of {layers}"

    def made(self, rows: Sequence[Row]) -> Module:
        """See `Network.made`."""
        return bert_of(self._weights, self._shape, self._kept)

    def prepare(self, rows: Sequence[Row]) -> list[Row]:
        """See `Network.prepare`."""
        return list(rows)

    def write(self, folder: Path, graph: str) -> str:
        """See `Network.write`."""
        return graph


class _Parts:
    """Pieces of a torch module with a teacher's weights."""

    def __init__(self, weights: Weights, shape: BertShape) -> None:
        self.weights, self.shape = weights, shape
        self.hidden = int(weights["embeddings.LayerNorm.weight"].size)

    def tensor(self, name: str) -> Any:
        """A copy that may be trained."""
        import torch

        return torch.from_numpy(np.array(self.weights[name]))

    def linear(self, name: str) -> Any:
        """A linear layer."""
        import torch

        weight = self.tensor(f"{name}.weight")
        made = torch.nn.Linear(weight.shape[1], weight.shape[0])
        made.load_state_dict({"weight": weight, "bias": self.tensor(f"{name}.bias")})
        return made

    def norm(self, name: str) -> Any:
        """A normalisation over the last axis."""
        import torch

        made = torch.nn.LayerNorm(self.hidden, eps=self.shape.epsilon)
        made.load_state_dict({part: self.tensor(f"{name}.{part}") for part in ("weight", "bias")})
        return made


def _layer(parts: _Parts, name: str) -> Module:
    """Attention and what follows it."""
    import torch

    hidden, heads = parts.hidden, parts.shape.heads
    size = hidden // heads

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            inner = (f"{name}.attention.self.{part}" for part in ("query", "key", "value"))
            self.query, self.key, self.value = map(parts.linear, inner)
            self.mixed = parts.linear(f"{name}.attention.output.dense")
            self.after = parts.norm(f"{name}.attention.output.LayerNorm")
            self.wide, self.narrow = parts.linear(f"{name}.intermediate.dense"), parts.linear(f"{name}.output.dense")
            self.last, self.drop = parts.norm(f"{name}.output.LayerNorm"), torch.nn.Dropout(_DROPOUT)

        def forward(self, x: Any, mask: Any) -> Any:
            rows, length, _ = x.shape
            split = (rows, length, heads, size)
            query, key, value = (part(x).reshape(split).transpose(1, 2) for part in (self.query, self.key, self.value))
            shares = (query @ key.transpose(2, 3) / size**0.5 + mask).softmax(dim=-1)
            mixed = (self.drop(shares) @ value).transpose(1, 2).reshape(rows, length, hidden)
            x = self.after(x + self.drop(self.mixed(mixed)))
            return self.last(x + self.drop(self.narrow(torch.nn.functional.gelu(self.wide(x)))))

    return Layer()


def bert_of(weights: Weights, shape: BertShape, kept: Sequence[int]) -> Module:
    """A BERT in torch with these layers. It answers an embedding before it is normalised, or logits."""
    import torch

    parts = _Parts(weights, shape)

    class Bert(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding.from_pretrained(parts.tensor("embeddings.word_embeddings.weight"))
            table = parts.tensor("embeddings.position_embeddings.weight")[shape.first_position :]
            # Token types are always 0.
            self.positions = torch.nn.Parameter(table + parts.tensor("embeddings.token_type_embeddings.weight")[0])
            self.norm, self.drop = parts.norm("embeddings.LayerNorm"), torch.nn.Dropout(_DROPOUT)
            self.layers = torch.nn.ModuleList(_layer(parts, f"encoder.layer.{place}") for place in kept)
            if shape.head == "bert":
                self.pooler, self.classifier = parts.linear("pooler.dense"), parts.linear("classifier")

        def forward(self, **tensors: Any) -> Any:
            ids, keep = tensors["input_ids"].long(), tensors[MASK].float()
            x = self.drop(self.norm(self.words(ids) + self.positions[: ids.shape[1]]))
            mask = (1.0 - keep)[:, None, None, :] * MASKED
            for layer in self.layers:
                x = layer(x, mask)
            if shape.head == "bert":
                return self.classifier(self.pooler(x[:, 0]).tanh())
            if shape.pooling == "first":
                return x[:, 0]
            return (x * keep[:, :, None]).sum(dim=1) / keep.sum(dim=1, keepdim=True).clamp_min(1.0)

    return Bert()
