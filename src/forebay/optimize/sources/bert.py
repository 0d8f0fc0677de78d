"""A Hugging Face folder of the BERT family (config.json, model.safetensors) to ONNX, without torch.

What sentence-transformers keeps beside it is followed, and the classifiers of transformers are written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from forebay.core.errors import SetupError
from forebay.optimize.sources.bert_graph import BertShape, Head, Weights, layers_of, write_bert
from forebay.optimize.sources.files import WEIGHTS, read_json, read_tensors
from forebay.optimize.sources.port import Original, missing
from forebay.optimize.sources.sentence import Sentence, read_sentence

_FAMILY = ("bert", "roberta", "xlm-roberta")
_PREFIXES = ("bert.", "roberta.")
_MEND = "Export others with torch: write a factory, and give file.py:factory"
_ARCHITECTURE = re.compile(r"(Bert|Roberta|XLMRoberta)(Model|For\w+)")
_BARE = ("Model", "ForMaskedLM", "ForPreTraining")
"""Served as what is below their heads, which is what they are published for; the report says so."""
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")


class Config(msgspec.Struct):
    """What of config.json is needed."""

    model_type: str = ""
    architectures: list[str] | None = None
    num_attention_heads: int | None = None
    num_hidden_layers: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    position_embedding_type: str = "absolute"
    is_decoder: bool = False


class Bert(NamedTuple):
    """What a folder holds. `shape`: what the weights do not tell; `note`: what it is, for reports."""

    weights: Weights
    shape: BertShape
    note: str


def export_folder(folder: Path, name: str, work: Path) -> Original:
    """The folder's model as `NAME.onnx` in `work`. Raises `SetupError` where it is not of the family or incomplete."""
    found = read_bert(folder)
    try:
        model = write_bert(found.weights, found.shape, name, "forebay")
        file = work / f"{name}.onnx"
        file.write_bytes(model.SerializeToString())
    except KeyError as error:
        raise SetupError(f"{folder}: its {WEIGHTS} has no tensor {error}; is it of the family?") from None
    except ImportError as error:
        raise missing("writing ONNX", "optimize", error) from None
    return Original(name, "huggingface", folder, str(file), file, f"{layers_of(found.weights)} layers, {found.note}")


def read_bert(folder: Path) -> Bert:
    """Raises `SetupError` where it is not of the family, incomplete, or something that is not written here."""
    sentence = read_sentence(folder)
    config = _config(sentence.network)
    weights = _bare(read_tensors(sentence.network)) | sentence.weights
    head, note = _head(sentence, config, weights)
    try:
        shape = BertShape(
            heads=_heads(sentence.network, config, weights),
            epsilon=config.layer_norm_eps,
            first_position=0 if config.model_type == "bert" else config.pad_token_id + 1,
            pooling=sentence.pooling,
            dense=sentence.dense,
            normalise=sentence.normalise,
            head=head,
        )
    except KeyError as error:
        raise SetupError(f"{sentence.network / WEIGHTS}: has no tensor {error}; is it a {config.model_type}?") from None
    if layers_of(weights) != config.num_hidden_layers:
        raise SetupError(
            f"{folder}: config.json has {config.num_hidden_layers} layers, the weights {layers_of(weights)}"
        )
    return Bert(weights, shape, note)


def _config(folder: Path) -> Config:
    """Raises `SetupError` for what is not written here."""
    config: Config = read_json(folder / "config.json", Config)
    if config.model_type not in _FAMILY:
        raise SetupError(
            f"{folder}: model_type is {config.model_type!r}; of Hugging Face folders {', '.join(_FAMILY)} can be read. "
            f"{_MEND}"
        )
    if config.hidden_act != "gelu" or config.position_embedding_type != "absolute":
        raise SetupError(
            f"{folder}: hidden_act {config.hidden_act!r} and position_embedding_type "
            f"{config.position_embedding_type!r}; only gelu and absolute are written here. {_MEND}"
        )
    if config.is_decoder:
        raise SetupError(f"{folder}: is_decoder is true; only encoders are written here. {_MEND}")
    return config


def _heads(folder: Path, config: Config, weights: Weights) -> int:
    """Of attention. Raises `SetupError` where it cannot be so many."""
    hidden, heads = int(weights["embeddings.LayerNorm.weight"].size), config.num_attention_heads
    if heads is None or heads < 1 or hidden % heads:
        has = "has no num_attention_heads" if heads is None else f"has num_attention_heads {heads}"
        raise SetupError(
            f"{folder / 'config.json'} {has}; it must be a whole number that divides the {hidden} values of a token; "
            "copy the config.json that belongs to these weights"
        )
    return heads


def _head(sentence: Sentence, config: Config, weights: Weights) -> tuple[Head, str]:
    """The classifier, and what the model is, for the report. Raises `SetupError` for another head of transformers, of
    which nothing but the layers below would be left.
    """
    if sentence.pooling != "none":
        dense = ", dense" * len(sentence.dense)
        return "none", f"pooling {sentence.pooling}{dense}{', normalised' if sentence.normalise else ''}"
    bert = config.model_type == "bert"
    if not config.architectures:  # then the weights tell
        if "classifier.weight" in weights and "pooler.dense.weight" in weights and bert:
            return "bert", "logits"
        strange = [name for name in sorted(weights) if name.startswith(("classifier.", "qa_outputs.", "score."))]
        if strange:
            raise SetupError(
                f"{sentence.network / 'config.json'} names no architecture, and the weights have a head "
                f"({strange[0]}); add the architecture, such as RobertaForSequenceClassification"
            )
        return "none", "pooling none"
    (architecture, *more) = config.architectures
    match = _ARCHITECTURE.fullmatch(architecture)
    if more or match is None or match[2] not in (*_BARE, *_CLASSIFIERS):
        raise SetupError(
            f"{sentence.network / 'config.json'}: architecture {', '.join(config.architectures)}; "
            f"{', '.join((*_BARE, *_CLASSIFIERS))} of BERT and RoBERTa can be written here. {_MEND}"
        )
    if match[2] == "ForTokenClassification":
        return "tokens", "logits of tokens"
    if match[2] == "ForSequenceClassification":
        return "bert" if bert else "roberta", "logits"
    below = "" if match[2] == "Model" else f", without the head of {architecture}"
    return "none", f"pooling none{below}"


def _bare(tensors: dict[str, Any]) -> dict[str, Any]:
    """By the names of the bare model, whatever stands in front of them in the file."""
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        found[name[len(prefix) :]] = value
    return found
