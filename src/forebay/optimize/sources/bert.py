"""A Hugging Face folder of the BERT family (config.json, model.safetensors) to ONNX, without torch.

What sentence-transformers keeps beside it is followed: `1_Pooling/config.json` and a `Normalize` in `modules.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.optimize.sources.bert_graph import BertShape, Pooling, Weights, layers_of, write_bert
from forebay.optimize.sources.port import Original, missing

_FAMILY = ("bert", "roberta", "xlm-roberta")
_PREFIXES = ("bert.", "roberta.")
_WEIGHTS = "model.safetensors"


class Config(msgspec.Struct):
    """What of config.json is needed."""

    model_type: str = ""
    num_attention_heads: int = 0
    num_hidden_layers: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    position_embedding_type: str = "absolute"


def export_folder(folder: Path, name: str, work: Path) -> Original:
    """The folder's model as `NAME.onnx` in `work`. Raises `SetupError` where it is not of the family or incomplete."""
    config = _read(folder / "config.json", Config)
    if config.model_type not in _FAMILY:
        raise SetupError(
            f"{folder}: model_type is {config.model_type!r}; of Hugging Face folders {', '.join(_FAMILY)} can be read. "
            "Export others with torch: write a factory, and give file.py:factory"
        )
    if config.hidden_act != "gelu" or config.position_embedding_type != "absolute":
        raise SetupError(
            f"{folder}: hidden_act {config.hidden_act!r} and position_embedding_type "
            f"{config.position_embedding_type!r}; only gelu and absolute are written here, export it with torch"
        )
    weights = _weights(folder)
    shape = _shape(folder, config, weights)
    try:
        model = write_bert(weights, shape, name, "forebay")
        file = work / f"{name}.onnx"
        file.write_bytes(model.SerializeToString())
    except KeyError as error:
        raise SetupError(f"{folder / _WEIGHTS}: has no tensor {error}; is it a {config.model_type}?") from None
    except ImportError as error:
        raise missing("writing ONNX", "optimize", error) from None
    if layers_of(weights) != config.num_hidden_layers:
        raise SetupError(
            f"{folder}: config.json has {config.num_hidden_layers} layers, the weights {layers_of(weights)}"
        )
    what = "logits" if shape.classifier else f"pooling {shape.pooling}{', normalised' if shape.normalise else ''}"
    return Original(name, "huggingface", folder, str(file), file, f"{layers_of(weights)} layers, {what}")


def _shape(folder: Path, config: Config, weights: Weights) -> BertShape:
    pooling, normalise = _pooling(folder)
    classifier = "classifier.weight" in weights and "pooler.dense.weight" in weights and pooling == "none"
    return BertShape(
        heads=config.num_attention_heads,
        epsilon=config.layer_norm_eps,
        first_position=0 if config.model_type == "bert" else config.pad_token_id + 1,
        pooling=pooling,
        normalise=normalise,
        classifier=classifier,
    )


def _pooling(folder: Path) -> tuple[Pooling, bool]:
    """What sentence-transformers would do with the tokens."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "none", False
    modes = {
        key for key, value in _read(file, dict[str, Any]).items() if key.startswith("pooling_mode_") and value is True
    }
    known: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(modes) != 1 or not modes <= known.keys():
        raise SetupError(f"{file}: {', '.join(sorted(modes)) or 'no mode'}; {' or '.join(known)} can be written here")
    modules = folder / "modules.json"
    listed = _read(modules, list[dict[str, Any]]) if modules.is_file() else []
    return known[modes.pop()], any(str(entry.get("type", "")).endswith(".Normalize") for entry in listed)


def _weights(folder: Path) -> Weights:
    """float32 tensors by the names of the bare model, whatever stands in front of them in the file."""
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise missing("reading safetensors", "optimize", error) from None
    file = folder / _WEIGHTS
    if not file.is_file():
        raise SetupError(f"{folder} has no {_WEIGHTS}; weights in other forms (.bin are pickles) are not read")
    try:
        loaded = load_file(file)
    except Exception as error:  # the library has errors of its own
        raise SetupError(f"{file}: {error}") from None
    found: dict[str, Any] = {}
    for name, value in loaded.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        found[name[len(prefix) :]] = value.astype(np.float32)
    return found


def _read(file: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror or error}; a Hugging Face folder has one") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} is not as transformers writes it: {error}; copy the folder again") from None
