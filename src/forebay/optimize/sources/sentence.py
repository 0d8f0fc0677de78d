"""What sentence-transformers does behind the network: the modules that `modules.json` lists, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from forebay.core.errors import SetupError
from forebay.optimize.sources.bert_graph import Activation, Dense, Pooling
from forebay.optimize.sources.files import WEIGHTS, read_json, read_tensors

_PACKAGE = "sentence_transformers."
_MEND = "export it with torch: write a factory, and give file.py:factory"
_MODES: Mapping[str, Pooling] = MappingProxyType(
    {"mean": "mean", "mean_tokens": "mean", "cls": "first", "cls_token": "first"}
)
_ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {"Identity": "", "Tanh": "Tanh", "ReLU": "Relu", "Sigmoid": "Sigmoid"}
)


class Module(msgspec.Struct):
    """An entry of `modules.json`. `path`: its folder, in the model's."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """Its class, where that is one of the package's own; else the whole name. Versions differ in what stands
        between the two.
        """
        return self.type.rpartition(".")[2] if self.type.startswith(_PACKAGE) else self.type


class Sentence(msgspec.Struct, kw_only=True):
    """What comes behind the tokens' vectors. `network`: the folder with the network's own files."""

    network: Path
    pooling: Pooling = "none"
    dense: tuple[Dense, ...] = ()
    normalise: bool = False
    weights: dict[str, Any] = {}
    """Of `dense`."""


class _DenseConfig(msgspec.Struct):
    activation_function: str = "torch.nn.modules.activation.Tanh"
    bias: bool = True
    module_input_name: str = "sentence_embedding"
    module_output_name: str | None = None


def read_sentence(folder: Path) -> Sentence:
    """Raises `SetupError` for a module, an order of them or a setting that is not written here."""
    file = folder / "modules.json"
    if not file.is_file():
        pooling = folder / "1_Pooling"
        return Sentence(network=folder, pooling=_pooling(pooling) if pooling.is_dir() else "none")
    modules = read_json(file, list[Module])
    if not modules or modules[0].kind != "Transformer":
        first = repr(modules[0].type) if modules else "no module at all"
        raise SetupError(f"{file}: begins with {first}, not with the Transformer; {_MEND}")
    found = Sentence(network=folder / modules[0].path)
    for module in modules[1:]:
        _add(found, module, file)
    return found


def _add(found: Sentence, module: Module, file: Path) -> None:
    """The next module. Raises `SetupError`."""
    folder = file.parent / module.path
    match module.kind:
        case "Pooling" if found.pooling == "none":
            found.pooling = _pooling(folder)
        case "Dense" if found.pooling != "none" and not found.normalise:
            _add_dense(found, folder)
        case "Normalize" if found.pooling != "none":
            found.normalise = True
        case "Pooling" | "Dense" | "Normalize":
            raise SetupError(
                f"{file}: {module.kind} ({module.path or 'no path'}) stands at a place that is not written here; what "
                f"is: Transformer, Pooling, any number of Dense, Normalize. {_MEND.capitalize()}"
            )
        case _:
            raise SetupError(
                f"{file}: a module of type {module.type!r}; Transformer, Pooling, Dense and Normalize of "
                f"sentence_transformers can be written here. {_MEND.capitalize()}"
            )


def _pooling(folder: Path) -> Pooling:
    file = folder / "config.json"
    settings = read_json(file, dict[str, Any])
    prefix = "pooling_mode_"
    modes = {key.removeprefix(prefix) for key, value in settings.items() if key.startswith(prefix) and value is True}
    if isinstance(settings.get("pooling_mode"), str):
        modes.add(settings["pooling_mode"])
    if len(modes) != 1 or not modes <= _MODES.keys():
        raise SetupError(
            f"{file}: pooling by {', '.join(sorted(modes)) or 'no mode'}; by one of {', '.join(_MODES)} can be written "
            f"here. {_MEND.capitalize()}"
        )
    return _MODES[modes.pop()]


def _add_dense(found: Sentence, folder: Path) -> None:
    file = folder / "config.json"
    config = read_json(file, _DenseConfig)
    activation = config.activation_function.rpartition(".")[2]
    if activation not in _ACTIVATIONS or not config.activation_function.startswith("torch.nn."):
        raise SetupError(
            f"{file}: activation_function {config.activation_function!r}; of torch.nn {', '.join(_ACTIVATIONS)} can be "
            f"written here. {_MEND.capitalize()}"
        )
    if {config.module_input_name, config.module_output_name or "sentence_embedding"} != {"sentence_embedding"}:
        raise SetupError(
            f"{file}: from {config.module_input_name!r} to {config.module_output_name!r}; only what works on "
            f"'sentence_embedding' can be written here. {_MEND.capitalize()}"
        )
    tensors = read_tensors(folder)
    name = f"dense.{len(found.dense)}"
    for part in ("weight", "bias") if config.bias else ("weight",):
        if f"linear.{part}" not in tensors:
            raise SetupError(f"{folder / WEIGHTS}: has no tensor 'linear.{part}', which a Dense has; copy it again")
        found.weights[f"{name}.{part}"] = tensors[f"linear.{part}"]
    found.dense = (*found.dense, Dense(name, _ACTIVATIONS[activation]))
