"""Errors in the words of who calls from Python: keyword arguments in place of the command's options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from forebay.core.errors import SetupError
from forebay.core.settings_sources import flag_name
from forebay.core.settings_values import CACHE_KEYS, JOB_KEYS, LOG_KEYS, MODEL_KEYS, ROOT_KEYS, SERVER_KEYS

DOTTED = (
    {name: f"server.{name}" for name in SERVER_KEYS}
    | {f"log_{name}": f"log.{name}" for name in LOG_KEYS}
    | {flag_name(f"jobs.{name}")[2:].replace("-", "_"): f"jobs.{name}" for name in JOB_KEYS}
    | {f"cache_{name}": f"cache.{name}" for name in CACHE_KEYS}
    | {name: name for name in ROOT_KEYS}
    | {name: f"models.*.{name}" for name in MODEL_KEYS}
)
"""Keyword argument to dotted key."""

_KEYWORDS = {dotted: keyword for keyword, dotted in DOTTED.items()}
_OPTIONS = {flag_name(dotted): keyword for keyword, dotted in DOTTED.items()} | {"--name": "name", "--config": "config"}
_SWITCHES = {name for name, key in SERVER_KEYS.items() if key.accepted == "true or false"}
_SET = re.compile(r"--set (?P<model>[^\s=]+)\.(?P<key>\w+)=(?P<value>[^\s;]*[^\s;,.])|--set\b")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def keyword_of(dotted: str) -> str:
    """Where a Python caller wrote a setting: `keyword argument port`, `model_settings['mlp']['slo_ms']`."""
    if dotted in _KEYWORDS:
        return f"keyword argument {_KEYWORDS[dotted]}"
    name, _, key = dotted.removeprefix("models.").rpartition(".")
    return f"model_settings[{name!r}][{key!r}]"


def in_python(message: str) -> str:
    """A message with its options as keyword arguments."""
    return _OPTION.sub(_keyword, _SET.sub(_model_setting, message))


def _model_setting(found: re.Match[str]) -> str:
    model, key, value = found["model"], found["key"], found["value"]
    if model is None:
        return "model_settings"
    return f"model_settings={{{model!r}: {{{key!r}: {True if value == 'true' else value!r}}}}}"


def _keyword(found: re.Match[str]) -> str:
    keyword = _OPTIONS.get(found[0], found[0])
    return f"{keyword}=True" if keyword in _SWITCHES else keyword


@contextmanager
def python_words() -> Iterator[None]:
    """A `SetupError` from within leaves with its options as keyword arguments."""
    try:
        yield
    except SetupError as error:
        message = in_python(error.message)
        if message == error.message:
            raise
        raise SetupError(message, code=error.code) from error
