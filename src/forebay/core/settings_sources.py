"""Where settings come from, and which wins.

For a model, later wins: class attribute, `model.toml`, `[models.NAME]` in forebay.toml, `FOREBAY_MODELS__NAME__KEY`, a
flag for all models, `--set NAME.key=value`. For the rest: forebay.toml, environment, flag. In a file and in `--set` the
name `*` stands for every model. Every value keeps its source.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from forebay.core.errors import SetupError
from forebay.core.settings import TRUST_KEYS, ModelSettings, Settings
from forebay.core.settings_values import (
    MODEL_KEYS,
    ROOT_KEYS,
    SECTIONS,
    TREES,
    Key,
    Setting,
    did_you_mean,
    read_value,
    unknown_key,
)
from forebay.core.store_url import masked_url

CONFIG_FILE = "forebay.toml"
ENV_PREFIX = "FOREBAY_"
TEST_PREFIX = "FOREBAY_TEST_"
CLIENT_KEY_VARIABLE = "FOREBAY_API_KEY"
"""Of commands that call a server, not of those that serve; a shell may well have it for both."""
KEY_LINES_VARIABLE = "FOREBAY_API_KEYS"
SECRET_LINES_VARIABLE = "FOREBAY_WEBHOOK_SECRETS"
_OF_A_SERVICE = re.compile(
    r"FOREBAY_((?!\w*__)\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|FOREBAY_((?!\w*__)\w+_)?PORT=(tcp|udp|sctp)://.*"
)
"""Kubernetes tells every pod of services by variables that begin with their names; none of our keys is like that."""
HIDDEN = "***"
"""Shown for what is secret."""

_PLAIN_KEYS: Mapping[str, Key] = MappingProxyType(
    {f"{section}.{name}": key for section, keys in SECTIONS.items() for name, key in keys.items()} | dict(ROOT_KEYS)
)
_LINES: Mapping[str, str] = MappingProxyType(
    {KEY_LINES_VARIABLE: "server.api_keys", SECRET_LINES_VARIABLE: "jobs.webhook_secrets"}
)
"""Variable that holds lines to the key whose file holds them otherwise."""
_URLS = frozenset({"jobs.store", "jobs.broker", "cache.store"})
_BARE_JOB_FLAGS = frozenset({"store", "broker", "durability"})
_EVERY_MODEL = "*"
REPOSITORY_KEYS = ("version_policy", "class")
"""Keys of a repository's `model.toml` that are no settings: `models/repository.py` reads them."""

Layer = dict[str, Setting]
"""Key to setting, of one source."""


class Row(NamedTuple):
    """One line of `forebay config show`: dotted key, value, and the source it came from."""

    key: str
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class ModelLayers:
    """What one source says of models: name to layer, and name to where the name stands.

    fits: does a name as the source writes it (environment variables cannot write all) mean this model?
    """

    fits: Callable[[str, str], bool]
    layers: dict[str, Layer] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, key: str, raw: object, *, source: str, text: bool, folder: Path | None = None) -> None:
        """Adds one checked value. Raises `SetupError` for an unknown key or a bad value."""
        self.places.setdefault(name, source)
        known = MODEL_KEYS.get(key)
        if known is None:
            raise unknown_key(key, MODEL_KEYS, source=source, kind=f"key of model {name!r}:")
        self.layers.setdefault(name, {})[key] = read_value(known, raw, source=source, text=text, folder=folder)

    def of(self, model: str) -> Layer:
        """The settings that this source holds for a model; those for every model come first, so that its own win."""
        merged = dict(self.layers.get(_EVERY_MODEL, {}))
        for name, layer in self.layers.items():
            if name != _EVERY_MODEL and self.fits(name, model):
                merged |= layer
        return merged


class LoadedSettings:
    """The settings of all sources, checked. Models are added as they become known, by `model`."""

    def __init__(self, plain: Mapping[str, Setting], models: Sequence[ModelLayers], lines: Mapping[str, str]) -> None:
        self._plain = dict(plain)
        self._models = tuple(models)
        self._served: dict[str, Layer] = {}
        self.api_key_lines = lines.get(KEY_LINES_VARIABLE)
        """What `FOREBAY_API_KEYS` holds, where it decides: lines NAME:SHA256HEX. Never shown, never logged."""
        self.webhook_secret_lines = lines.get(SECRET_LINES_VARIABLE)
        """What `FOREBAY_WEBHOOK_SECRETS` holds, where it decides: lines whsec_BASE64. Never shown, never logged."""

    @property
    def settings(self) -> Settings:
        """The tree, with the models that `model` was asked for."""
        branches: dict[str, Any] = {section: tree(**self._branch(section)) for section, tree in TREES.items()}
        return Settings(
            **branches,
            data_dir=self._plain["data_dir"].value,
            models={name: _model_settings(layer) for name, layer in self._served.items()},
        )

    def _branch(self, section: str) -> dict[str, Any]:
        return {name: self._plain[f"{section}.{name}"].value for name in SECTIONS[section]}

    def model(
        self,
        name: str,
        class_attributes: Mapping[str, object],
        sidecar: Path | None,
        *,
        in_repository: bool = False,
        overrides: Mapping[str, object] | None = None,
    ) -> ModelSettings:
        """The effective settings of one model.

        class_attributes: a Python model's own; what is no setting is passed over.
        sidecar: its `model.toml` or `stem.toml`; None where there is none. in_repository: it may hold
        `REPOSITORY_KEYS` too. overrides: what a load request asks for; wins over all else.

        Raises `SetupError` for an unknown key or a bad value in any of them.
        """
        layer: Layer = {key: Setting(known.default, "default") for key, known in MODEL_KEYS.items()}
        layer |= _class_layer(name, class_attributes)
        if sidecar is not None:
            layer |= _sidecar_layer(name, sidecar, REPOSITORY_KEYS if in_repository else ())
        for source in self._models:
            layer |= source.of(name)
        if overrides:
            asked = ModelLayers(_same_name)
            for key, raw in overrides.items():
                asked.put(name, key, raw, source=f"load request: {key}", text=False)
            layer |= asked.of(name)
        self._served[name] = layer
        return _model_settings(layer)

    def check_models(self, served: Iterable[str], *, others_may_come: bool = False) -> list[str]:
        """Raises `SetupError` where a source has settings for a model that is not served, or for two at once.

        others_may_come: a model that is not served yet is no error, unless its name is nearly that of one that is; what
        would be an error is returned.
        """
        names = sorted(served)
        unserved: list[str] = []
        for source in self._models:
            for name, place in source.places.items():
                if name == _EVERY_MODEL:
                    continue
                meant = [model for model in names if source.fits(name, model)]
                if not meant:
                    meant_is = did_you_mean(name, names)
                    known = f"; served: {', '.join(names) or 'none'}{meant_is}"
                    unserved.append(f"{place}: settings for model {name!r}, which is not served{known}")
                    if meant_is or not others_may_come:
                        raise SetupError(unserved[-1])
                if len(meant) > 1:
                    raise SetupError(f"{place}: this name fits more than one model: {', '.join(meant)}; use --set")
        return unserved

    def model_names(self) -> list[str]:
        """The models that some source has settings for, as that source writes them."""
        return sorted({name for source in self._models for name in source.places if name != _EVERY_MODEL})

    def rows(self) -> list[Row]:
        """Every effective setting with its source, no secret in it; models last, those that `model` was asked for."""
        rows = [Row(key, _shown_value(key, setting), setting.source) for key, setting in self._plain.items()]
        for name, layer in sorted(self._served.items()):
            rows += [Row(f"models.{name}.{key}", setting.value, setting.source) for key, setting in layer.items()]
        return rows


def load_settings(
    *,
    config_file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    sets: Sequence[str],
    folder: Path | None = Path(),
    flag_source: Callable[[str], str] | None = None,
) -> LoadedSettings:
    """Reads every source but those that lie beside a model. Raises `SetupError` at the first thing that is wrong.

    config_file: must exist; None takes `forebay.toml` in `folder` where there is one; folder None: there is none.
    flags: dotted key (`server.port`, `data_dir`, `models.*.devices`) to value; None means not given.
    sets: `NAME.key=value` each. flag_source: what errors call the source of a flag; None: its name on the command line.
    """
    plain: Layer = {key: Setting(known.default, "default") for key, known in _PLAIN_KEYS.items()}
    file = config_file if config_file is not None else folder / CONFIG_FILE if folder is not None else None
    by_file, by_env = ModelLayers(_same_name), ModelLayers(_same_folded)
    by_flag, by_set = ModelLayers(_same_name), ModelLayers(_same_name)
    if file is not None and (config_file is not None or file.is_file()):
        plain |= _read_file(file, by_file)
    from_env = _read_environ(environ, by_env)
    from_flags = _read_flags(flags, by_flag, flag_source or flag_name)
    for text in sets:
        _read_set(text, by_set)
    lines = _read_lines(environ, from_env, from_flags)
    return LoadedSettings(plain | from_env | from_flags, (by_file, by_env, by_flag, by_set), lines)


def flag_name(key: str) -> str:
    """The flag of a dotted key: `server.max_body_bytes` is `--max-body-bytes`, `log.level` is `--log-level`."""
    branch, _, name = key.rpartition(".")
    prefixed = branch in ("log", "cache") or (branch == "jobs" and name not in _BARE_JOB_FLAGS)
    return "--" + (f"{branch}-{name}" if prefixed else name).replace("_", "-")


def _shown_value(key: str, setting: Setting) -> object:
    if setting.source in _LINES:
        return HIDDEN
    return masked_url(setting.value) if key in _URLS and isinstance(setting.value, str) else setting.value


def _same_name(name: str, model: str) -> bool:
    return name == model


def _same_folded(name: str, model: str) -> bool:
    return name == fold_name(model)


def fold_name(model: str) -> str:
    """A model's name as an environment variable can write it: lower case, anything but letters and digits as `_`."""
    return re.sub(r"[^a-z0-9]", "_", model.lower())


def _model_settings(layer: Layer) -> ModelSettings:
    return ModelSettings(**{key: setting.value for key, setting in layer.items()})


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8, not TOML, or an integer of more digits than Python reads
        raise SetupError(f"{file}: is not valid TOML: {error}") from None
    except RecursionError:
        raise SetupError(f"{file}: is nested too deeply") from None


def _read_file(file: Path, models: ModelLayers) -> Layer:
    """`forebay.toml`: the plain settings; those of models go into `models`."""
    layer: Layer = {}
    for name, value in _read_toml(file).items():
        if name in ROOT_KEYS:
            layer[name] = read_value(ROOT_KEYS[name], value, source=f"{file}:{name}", text=False, folder=file.parent)
        elif name in SECTIONS:
            for key, raw in _table(file, name, value).items():
                source = f"{file}:{name}.{key}"
                known = SECTIONS[name].get(key)
                if known is None:
                    raise unknown_key(key, SECTIONS[name], source=source, kind=f"key of [{name}]:")
                layer[f"{name}.{key}"] = read_value(known, raw, source=source, text=False, folder=file.parent)
        elif name == "models":
            _read_model_tables(file, _table(file, name, value), models)
        else:
            raise unknown_key(name, [*ROOT_KEYS, *SECTIONS, "models"], source=f"{file}:{name}")
    return layer


def _table(file: Path, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SetupError(f"{file}:{name}: is a table; write [{name}] and its keys below it")
    return value


def _read_model_tables(file: Path, tables: Mapping[str, Any], models: ModelLayers) -> None:
    for name, value in tables.items():
        models.places.setdefault(name, f"{file}:models.{name}")
        for key, raw in _table(file, f"models.{name}", value).items():
            source = f"{file}:models.{name}.{key}"
            if isinstance(raw, dict) and key not in MODEL_KEYS:
                raise SetupError(f'{source}: a model name with a dot needs quotes: [models."{name}.{key}"]')
            models.put(name, key, raw, source=source, text=False, folder=file.parent)


def _read_environ(environ: Mapping[str, str], models: ModelLayers) -> Layer:
    layer: Layer = {}
    for variable, raw in environ.items():
        ours = variable.startswith(ENV_PREFIX) and not variable.startswith(TEST_PREFIX)
        if (
            not ours
            or _OF_A_SERVICE.fullmatch(f"{variable}={raw}")
            or variable in _LINES
            or variable == CLIENT_KEY_VARIABLE
        ):
            continue
        parts = variable.removeprefix(ENV_PREFIX).lower()
        dotted = parts.replace("__", ".", 1)
        if dotted in _PLAIN_KEYS:
            layer[dotted] = read_value(_PLAIN_KEYS[dotted], raw, source=variable, text=True)
        elif parts.startswith("models__") and parts.count("__") >= 2:
            name, _, key = parts.removeprefix("models__").rpartition("__")
            models.put(name, key, raw, source=variable, text=True)
        else:
            raise _unknown_variable(variable, parts)
    return layer


def _read_lines(environ: Mapping[str, str], from_env: Layer, from_flags: Layer) -> dict[str, str]:
    """The variables that hold lines and that decide, in place of the path to a file."""
    deciding: dict[str, str] = {}
    for variable, key in _LINES.items():
        lines = environ.get(variable)
        if lines is None:
            continue
        if key in from_env:
            other, what = from_env[key].source, key.rpartition("_")[2]
            raise SetupError(f"{variable} and {other} are both set; give the {what} or the file's path, not both")
        if key not in from_flags:
            from_env[key] = Setting(None, variable)
            deciding[variable] = lines
    return deciding


def _unknown_variable(variable: str, parts: str) -> SetupError:
    """Names the nearest variable. The value is not shown: it may be a secret under a misspelt name."""
    known = [ENV_PREFIX + key.replace(".", "__").upper() for key in _PLAIN_KEYS]
    by_key = [name for name in known if name.lower().endswith(f"__{parts}")]
    hint = f"; did you mean {by_key[0]!r}?" if by_key else did_you_mean(variable, [*known, *_LINES])
    sections = ", ".join(f"{ENV_PREFIX}{section.upper()}__KEY" for section in SECTIONS)
    forms = f"; variables are {sections}, {ENV_PREFIX}MODELS__NAME__KEY"
    return SetupError(f"environment: unknown variable {variable!r}{hint or forms}")


def _read_flags(flags: Mapping[str, object], models: ModelLayers, source_of: Callable[[str], str]) -> Layer:
    layer: Layer = {}
    for dotted, raw in flags.items():
        if raw is None:
            continue
        source = source_of(dotted)
        if dotted in _PLAIN_KEYS:
            layer[dotted] = read_value(_PLAIN_KEYS[dotted], raw, source=source, text=isinstance(raw, str))
        elif dotted.startswith("models.") and dotted.count(".") >= 2:
            name, _, key = dotted.removeprefix("models.").rpartition(".")
            models.put(name, key, raw, source=source, text=isinstance(raw, str))
        else:
            raise unknown_key(dotted, _PLAIN_KEYS, source=source)
    return layer


def _read_set(text: str, models: ModelLayers) -> None:
    target, equals, raw = text.partition("=")
    name, dot, key = target.strip().rpartition(".")
    if not equals or not dot or not name:
        raise SetupError(f"--set {target}: the form is NAME.key=value, such as --set minilm.max_batch_rows=32")
    if name in SECTIONS and key in SECTIONS[name]:
        variable = ENV_PREFIX + f"{name}__{key}".upper()
        raise SetupError(f"--set {target}: --set is for models; use {variable} or [{name}] in {CONFIG_FILE}")
    models.put(name, key, raw, source=f"--set {target.strip()}", text=True)


def _sidecar_layer(model: str, file: Path, passed_over: Sequence[str]) -> Layer:
    layers = ModelLayers(_same_name)
    for key, raw in _read_toml(file).items():
        if key in passed_over:
            continue
        if key in TRUST_KEYS:
            raise SetupError(
                f"{file}: {key} may not stand beside the model, which would vouch for itself; "
                f"use [models.{model}] in {CONFIG_FILE} or --set {model}.{key}=..."
            )
        layers.put(model, key, raw, source=f"{file}:{key}", text=False, folder=file.parent)
    return layers.of(model)


def _class_layer(model: str, attributes: Mapping[str, object]) -> Layer:
    """The class attributes that are settings.

    A class has attributes of its own, so an unknown name cannot be an error; a slip of the pen in a name of two words,
    such as `max_batch_row`, is one. Methods and properties are code, whatever their name.
    """
    layers = ModelLayers(_same_name)
    for name, value in attributes.items():
        if name.startswith("_") or callable(value) or hasattr(value, "__get__"):
            continue
        source = f"class attribute {name} of {model}"
        if name == "request_log_redact":
            raise SetupError(
                f"{source}: it runs where the models are served, not where the class does; "
                f"use [models.{model}] in {CONFIG_FILE} or --set {model}.{name}=..."
            )
        if name in MODEL_KEYS:
            layers.put(model, name, value, source=source, text=False)
        elif "_" in name and did_you_mean(name, [key for key in MODEL_KEYS if "_" in key], cutoff=0.9):
            raise unknown_key(name, MODEL_KEYS, source=source, kind="setting")
    return layers.of(model)
