"""Triton's logging and trace extensions, as far as they mean something here.

Sources: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_logging.md and
extension_trace.md. Levels can be turned while the server runs; where the log goes, its form, and traces cannot.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgspec

from forebay.api.elements import kind, show
from forebay.core.errors import RequestError
from forebay.telemetry.logs import LogSwitch

MAX_VERBOSE_LEVEL = (1 << 32) - 1

_LEVELS = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_OTHER_NAMES = {"log_warnings": "log_warning", "log_errors": "log_error"}
"""Names in Triton's document, where its code has the others."""


class LogSettingsDocument(msgspec.Struct):
    """`GET /v2/logging`. Debug records are written where `log_verbose_level` is above 0."""

    log_file: str
    log_info: bool
    log_warning: bool
    log_error: bool
    log_verbose_level: int
    log_format: Literal["default", "ISO8601"]


def log_settings(switch: LogSwitch | None) -> LogSettingsDocument:
    """What is logged now. Raises `RequestError` (unsupported) where the log is not Forebay's own."""
    if switch is None:
        raise RequestError("the log belongs to the program that Forebay runs in", code="unsupported")
    shown = {name: level in switch.shown for name, level in _LEVELS.items()}
    # JSON lines carry ISO 8601 times; lines for people do not.
    form: Literal["default", "ISO8601"] = "ISO8601" if switch.as_json else "default"
    return LogSettingsDocument(log_file="", log_verbose_level=switch.verbose_level, log_format=form, **shown)


def turn_log(switch: LogSwitch | None, wanted: Any) -> LogSettingsDocument:
    """Changes what `wanted` names, all of it or nothing, and returns what is logged now.

    Raises `RequestError`: invalid_request, or unsupported for what only a restart changes.
    """
    now = log_settings(switch)
    assert switch is not None
    if type(wanted) is not dict:
        raise RequestError(f"the log settings must be an object, got {kind(wanted)}")
    shown, verbose_level = set(switch.shown), switch.verbose_level
    for key, value in wanted.items():
        name = _OTHER_NAMES.get(key, key)
        if value is None and name in LogSettingsDocument.__struct_fields__:
            continue  # as it is, as in Triton
        if name in _LEVELS:
            if type(value) is not bool:
                raise RequestError(f"{key} must be true or false, got {show(value)}")
            (shown.add if value else shown.discard)(_LEVELS[name])
        elif name == "log_verbose_level":
            if type(value) is not int or not 0 <= value <= MAX_VERBOSE_LEVEL:
                raise RequestError(f"{key} must be an integer from 0 to {MAX_VERBOSE_LEVEL}, got {show(value)}")
            verbose_level = value
        elif name == "log_format":
            if value not in ("default", "ISO8601"):
                raise RequestError(f'{key} must be "default" or "ISO8601", got {show(value)}')
            if value != now.log_format:
                raise RequestError(
                    "log_format is chosen at start: forebay serve --log-format json|text", code="unsupported"
                )
        elif name == "log_file":
            if type(value) is not str:
                raise RequestError(f"{key} must be a string, got {show(value)}")
            if value:
                raise RequestError(
                    "log_file cannot be set: the log goes to standard error; redirect it there", code="unsupported"
                )
        else:
            known = ", ".join(LogSettingsDocument.__struct_fields__)
            raise RequestError(f"there is no log setting {show(key)}; there are {known}")
    switch.turn(shown, verbose_level)
    return log_settings(switch)


class TraceSettings(msgspec.Struct):
    """`GET /v2/trace/setting` and `GET /v2/models/{model}/trace/setting`: nothing is traced."""

    trace_level: tuple[str, ...] = ("OFF",)
    trace_rate: str = "0"
    trace_count: str = "0"
    log_frequency: str = "0"
    trace_file: str = ""


def turn_trace(wanted: Any) -> TraceSettings:
    """The settings where `wanted` is what they are already: traces off, or back to the default.

    Raises `RequestError`: invalid_request, or unsupported for every other wish.
    """
    if type(wanted) is not dict:
        raise RequestError(f"the trace settings must be an object, got {kind(wanted)}")
    known = TraceSettings.__struct_fields__
    for key, value in wanted.items():
        if key not in known:
            raise RequestError(f"there is no trace setting {show(key)}; there are {', '.join(known)}")
        if type(value) is not str and value is not None and not _texts(value):
            raise RequestError(f"{key} must be a string, a list of strings or null, got {show(value)}")
    now: dict[str, tuple[object, ...]] = {
        key: (None, "", [], value) for key, value in msgspec.structs.asdict(TraceSettings()).items()
    }
    now["trace_level"] = (None, "OFF", ["OFF"])
    if any(value not in now[key] for key, value in wanted.items()):
        raise RequestError(
            'traces are not supported; /metrics has timings, and the request parameter "explain" tells how one request '
            "was batched",
            code="unsupported",
        )
    return TraceSettings()


def _texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)
