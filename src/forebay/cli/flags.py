"""The settings as command-line flags, made from the tree: no option is written down a second time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from forebay.core.settings_sources import LoadedSettings, flag_name, load_settings
from forebay.core.settings_values import CACHE_KEYS, JOB_KEYS, LOG_KEYS, MODEL_KEYS, ROOT_KEYS, SERVER_KEYS, Key

FLAG_KEYS: Mapping[str, Key] = (
    {f"server.{name}": key for name, key in SERVER_KEYS.items()}
    | {f"log.{name}": key for name, key in LOG_KEYS.items()}
    | {f"jobs.{name}": key for name, key in JOB_KEYS.items()}
    | {f"cache.{name}": key for name, key in CACHE_KEYS.items()}
    | dict(ROOT_KEYS)
    | {"models.*.devices": MODEL_KEYS["devices"]}
)
"""Dotted key to key, for every setting that has a flag of its own. The other settings of models go by `--set`."""

_PANEL = "Settings"
_METAVARS = {
    "api_keys": "FILE",
    "requests_per_s": "N",
    "max_pipelined": "N",
    "max_json_depth": "N",
    "store": "URL",
    "broker": "URL",
} | dict.fromkeys(("max_attempts", "max_queued", "shards"), "N")


@dataclass(frozen=True, slots=True)
class GivenSettings:
    """What the command line said of settings; `load` joins it with the other sources."""

    config_file: Path | None
    flags: Mapping[str, object]
    sets: tuple[str, ...]

    def load(self, environ: Mapping[str, str]) -> LoadedSettings:
        """All sources, read and checked. Raises `SetupError`."""
        return load_settings(config_file=self.config_file, environ=environ, flags=self.flags, sets=self.sets)


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a typer command the flags of all settings, `--config` and `--set`.

    The command has a parameter `given: GivenSettings`; typer does not see it, it sees the flags in its place.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    names = {dotted: f"flag_{index}" for index, dotted in enumerate(FLAG_KEYS)}

    @functools.wraps(command)
    def with_flags(*, config_file: Path | None, sets: list[str] | None, **values: Any) -> None:
        flags = {dotted: values.pop(name) for dotted, name in names.items()}
        command(**values, given=GivenSettings(config_file, flags, tuple(sets or ())))

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    parameters += [_parameter("config_file", Path | None, _CONFIG), _parameter("sets", list[str] | None, _SET)]
    parameters += [
        _parameter(names[dotted], bool | None if key.accepted == "true or false" else str | None, _option(dotted, key))
        for dotted, key in FLAG_KEYS.items()
    ]
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_flags


_CONFIG = typer.Option(
    "--config", metavar="FILE", help="Settings file. Default: ./forebay.toml, if there.", rich_help_panel=_PANEL
)
_SET = typer.Option(
    "--set", metavar="NAME.KEY=VALUE", help="A model's setting; may be repeated. NAME * is all.", rich_help_panel=_PANEL
)


def _option(dotted: str, key: Key) -> Any:
    flag = flag_name(dotted)
    if key.accepted == "true or false":
        return typer.Option(flag, help=key.meaning, rich_help_panel=_PANEL, show_default=False)
    metavar = "|".join(key.choices) or _METAVARS.get(key.name) or key.name.rpartition("_")[2].upper()
    metavar = "SECONDS" if metavar == "S" else metavar
    default = "" if key.default is None else f" Default: {shown_value(key.default, key.name)}."
    return typer.Option(flag, metavar=metavar, help=key.meaning + default, rich_help_panel=_PANEL, show_default=False)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def shown_value(value: object, name: str) -> str:
    """A setting's value for people: `none`, `true`, `64MiB`, `cpu,cuda:0`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    if isinstance(value, int) and name.endswith("_bytes"):
        return _shown_size(value)
    return str(value)


def _shown_size(size_bytes: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % scale == 0:
            return f"{size_bytes // scale}{unit}"
    return str(size_bytes)
